import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that are slow as a whole.

    An idle worker takes over the end of the other's queue. If half of such a module stood there,
    both workers would build what its tests share.
    """

    def is_slow(item: pytest.Item) -> bool:
        module = item.getparent(pytest.Module)
        return bool(module and module.get_closest_marker("slow"))

    items.sort(key=lambda item: not is_slow(item))
