"""The sentences of every check: what it expects, what was seen where it fails, and what to do.

Placeholders are filled from the facts of a check. `{images}` is the number of images that fail,
and `{are}`, `{have}`, `{do}` agree with it.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Sentences(NamedTuple):
    """Three plain statements, each of which is understood without the others."""

    expected: str
    seen: str
    step: str


COPY_AGAIN = "Copy the files again from the camera or the release, or remove them."
LOOK_AT_PAIRS = "Look at the pairs on the page"
OTHER_KIND = (
    "Check whether these images come from another camera or were cropped; if they do, remove them "
    "or give them a task of their own."
)

SENTENCES = {
    "mask_present": Sentences(
        "Every anomalous image has a mask, if the dataset has any.",
        "{images} {have} no mask file.",
        "Add the masks, or remove these images.",
    ),
    "mask_decodes": Sentences(
        "Every mask decodes to its last pixel.",
        "{images} {have} a mask that does not decode.",
        "Copy the masks again from the source.",
    ),
    "mask_binary": Sentences(
        "A mask has two values: 0 and one other.",
        "{images} {have} a mask with more values than two.",
        "Store the masks again without loss (PNG, not JPEG).",
    ),
    "mask_size": Sentences(
        "A mask is as large as its image.",
        "{images} {have} a mask of another size.",
        "Export the masks again at the size of the images.",
    ),
    "mask_not_empty": Sentences(
        "A mask marks at least one pixel.",
        "{images} {have} a mask that is black all over.",
        "Mark the defects, or move images without a defect to the normal ones.",
    ),
    "mask_share": Sentences(
        "A mask marks at most {most:.0%} of its image.",
        "{images} {have} a mask that marks more than {most:.0%} of the image.",
        "Look at these masks, and invert them if they mark what is normal; if the defects are so "
        "large, raise `validate.max_mask_share`.",
    ),
    "mattes_fit": Sentences(
        "Every image to learn from has a foreground matte of its size, or none has one.",
        "{images} to learn from {have} no foreground matte, or one that does not fit.",
        "Add or correct the mattes in the folder `foreground`, or remove all of them.",
    ),
    "image_decodes": Sentences(
        "Every image decodes to its last pixel.",
        "{images} {do} not decode to the last pixel.",
        COPY_AGAIN,
    ),
    "image_id_unique": Sentences(
        "The names of two images differ in more than their endings.",
        "{images} {have} the name of another image but for the ending.",
        "Rename or remove all but one of each name.",
    ),
    "only_normal_to_learn": Sentences(
        "Train, validation and calibration hold normal images only.",
        "{images} to learn from {are} labelled anomalous.",
        "Move these images to the test part, or correct their labels.",
    ),
    "no_split_leakage": Sentences(
        "The same image, by content, stands in one split only.",
        "{images} {are} in two splits at once.",
        "Keep each of these images in one split, and remove it from the other.",
    ),
    "enough_normal_images": Sentences(
        "There are at least {least} readable normal images to learn from.",
        "There are {observed:g} readable normal images to learn from.",
        "Add at least {missing:g} normal images.",
    ),
    "test_has_both_labels": Sentences(
        "The test split has normal and anomalous images.",
        "The test split has {normal} normal and {anomalous} anomalous images.",
        "Add the missing images to the test part; figures that compare both are not defined.",
    ),
    "no_duplicates": Sentences(
        "The same image, by content, stands in its split once.",
        "{images} {are} equal, byte by byte, to another image of their split.",
        "Remove all copies but one: an image that stands twice counts twice.",
    ),
    "same_size": Sentences(
        "Every image is, as most are, {usual}.",
        "{images} {are} not {usual}, as most are.",
        OTHER_KIND,
    ),
    "kept_ratio": Sentences(
        "No method stretches an image more than {most:g} times along one side.",
        "{images} {are} stretched more than {most:g} times along one side: {who}.",
        "Set `aspect: keep` of these methods, which gives all images the ratio of the one in the "
        "middle; give images of another ratio a task of their own.",
    ),
    "same_mode": Sentences(
        "Every image is, as most are, of the mode {usual}.",
        "{images} {are} not of the mode {usual}, as most are.",
        OTHER_KIND,
    ),
    "same_bit_depth": Sentences(
        "Every image has, as most have, {usual}.",
        "{images} {do} not have {usual}, as most have.",
        OTHER_KIND,
    ),
    "fits_rules": Sentences(
        "Every image to test with keeps the rules learnt from the images to learn from.",
        "{images} to test with {do} not keep the rules; a line would not score such an image.",
        "Remove these images from test, or add normal images of their kind to learn from.",
    ),
    "side": Sentences(
        "No side of an image is shorter than {least} px.",
        "{images} {have} a side shorter than {least} px.",
        "Replace these images by larger ones, or lower `validate.min_side_px`.",
    ),
    "brightness": Sentences(
        "The mean grey level of an image is in {darkest:g}..{brightest:g}.",
        "{images} {have} a mean grey level outside {darkest:g}..{brightest:g}.",
        "Remove images that are black or burnt out, or change `validate.min_brightness` and "
        "`validate.max_brightness`.",
    ),
    "contrast": Sentences(
        "The grey levels of an image deviate by at least {least:g}.",
        "{images} {are} nearly of one grey.",
        "Remove images that show nothing, or lower `validate.min_contrast`.",
    ),
    "no_near_duplicates": Sentences(
        "Images of one split are more than {bits} of {hash_bits} bits apart (perceptual hash).",
        "{images} {are} nearly equal to another image of their split.",
        LOOK_AT_PAIRS + ", and remove copies: an image that stands twice counts twice.",
    ),
    "no_near_leakage": Sentences(
        "Images of two splits are more than {bits} of {hash_bits} bits apart (perceptual hash).",
        "{images} {are} nearly equal to an image of another split.",
        LOOK_AT_PAIRS + "; if both show the same piece, keep them in one split: what was learnt "
        "by heart is measured otherwise.",
    ),
    "same_session": Sentences(
        "The distributions of normal images to test with and to learn from are at most {most:g} "
        "apart (0: equal, 1: no value in common).",
        "The distributions of normal images to test with and to learn from are apart by {shifts}.",
        "Use test images of the same camera, light and time as those to learn from.",
    ),
    "no_likely_defects": Sentences(
        "No image to learn from is more than {most:g} times as odd as the median image.",
        "{images} to learn from {are} more than {most:g} times as odd as the median image.",
        "Look at the pictures, and remove images that show a defect.",
    ),
    "enough_for_alpha": Sentences(
        "At least {least} {unit} calibrate, as a false-alarm budget of {alpha:g} needs.",
        "{observed:g} {unit} calibrate; the smallest budget that they can promise is "
        "{smallest_alpha:.3g}. {missing} more normal {unit} are missing.",
        "Add {missing} normal {unit}, or raise `evaluate.alpha`.",
    ),
    "licence_stated": Sentences(
        "The task states what may be done with its images.",
        "The licence of the images reads `{licence}`.",
        "Write the licence of the source to `tasks.NAME.licence` in params.yaml.",
    ),
    "commercial_use": Sentences(
        "The licence of the images allows commercial use.",
        "The licence reads `{licence}`, which forbids commercial use or seems to.",
        "Ask the owner of the images before a model of this task is used commercially; every "
        "bundle states the licence.",
    ),
}


def seen_and_step(name: str, facts: Mapping[str, object], count: int) -> tuple[str, str]:
    """What was seen where `count` images fail the check, and what to do about it."""
    words = {"are": "is", "have": "has", "do": "does"} if count == 1 else {}
    agreeing = {verb: words.get(verb, verb) for verb in ("are", "have", "do")}
    number = f"{count:,} image" + "s" * (count != 1)
    sentences, values = SENTENCES[name], {**facts, **agreeing, "images": number}
    return sentences.seen.format(**values), sentences.step.format(**values)


def expectation(name: str, facts: Mapping[str, object]) -> str:
    """What the check expects."""
    return SENTENCES[name].expected.format(**facts)
