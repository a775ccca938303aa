"""Conditional and unconditional IMLE: KorKMinusOne, CIMLEDataLoader, CAM-Net, code search, losses."""
