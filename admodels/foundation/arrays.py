"""Names for the types of numpy arrays; shapes stand in docstrings."""

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]
UInt8 = NDArray[np.uint8]
UInt16 = NDArray[np.uint16]
Int64 = NDArray[np.int64]
Indices = NDArray[np.intp]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Records = NDArray[np.void]
