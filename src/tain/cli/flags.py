"""Command-line flags that several commands share: one name, one type and one help text for each.

A command that needs another help text wraps the type: ``Annotated[Output, Parameter(help="folder for the student")]``.
"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tain.foundation.choices import Dtype as _Dtype

Output = Annotated[Path, Parameter(name=["--output", "-o"])]  # each command says what it writes
OptionalOutput = Annotated[Path | None, Parameter(name=["--output", "-o"])]
FiguresOutput = Annotated[OptionalOutput, Parameter(help="write all figures to this JSON file")]
Overwrite = Annotated[bool, Parameter(help="replace the output if it exists", negative=())]
OverwriteRun = Annotated[
    bool, Parameter(help="replace the output folder if it exists; discards the checkpoint of an interrupted run", negative=())
]
Json = Annotated[bool, Parameter(help="results and progress as JSON", negative=())]
Quiet = Annotated[bool, Parameter(help="print only results and warnings", negative=())]
Data = Annotated[Path | None, Parameter(help="folder with the suites' files (sts/, transfer/, bli/, ...); your own tsv needs none")]
Device = Annotated[str | None, Parameter(help="cpu, cuda or cuda:N; default: a GPU if there is one")]
Dtype = Annotated[_Dtype, Parameter(help="number type the models compute in; auto picks the fastest on this machine")]
TrustRemoteCode = Annotated[bool, Parameter(help="run Python code from the models' folders; read it first", negative=())]
