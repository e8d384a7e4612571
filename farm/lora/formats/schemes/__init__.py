"""Naming schemes of adapter files: which scheme a file uses, and by which names it may call a layer. Tables, no guessing.

Names are compared flattened (dots become underscores), from the layer's side: un-flattening is ambiguous. One table
module for each family whose files use names other than diffusers'.
"""

from farm.lora.formats.schemes.address import DENOISER, Address, address, components, flatten, scheme_of
from farm.lora.formats.schemes.table import name_table

__all__ = ["DENOISER", "Address", "address", "components", "flatten", "name_table", "scheme_of"]
