"""The parts of MSIT, one file for each module that the paper names: FEM, MSC, SIM, MSNO, MSSA, RIM."""

__all__: list[str] = []
