"""Command-line flags that several commands share: one name, one type and one help text for each.

A command that needs another help text wraps the type: ``Annotated[Output, Parameter(help="folder for the student")]``.
"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tain.foundation.choices import Backend as _Backend
from tain.foundation.choices import ComputeDtype as _ComputeDtype
from tain.foundation.choices import Dtype as _Dtype

Output = Annotated[Path, Parameter(name=["--output", "-o"])]  # each command says what it writes
OptionalOutput = Annotated[Path | None, Parameter(name=["--output", "-o"])]
FiguresOutput = Annotated[OptionalOutput, Parameter(help="write all figures to this JSON file")]
Overwrite = Annotated[bool, Parameter(help="replace the output if it exists", negative=())]
OverwriteRun = Annotated[bool, Parameter(help="replace the output folder if it exists; an interrupted run starts over", negative=())]
Json = Annotated[bool, Parameter(help="results and progress as JSON", negative=())]
Quiet = Annotated[bool, Parameter(help="print only results and warnings", negative=())]
Data = Annotated[Path | None, Parameter(help="folder with the suites' files (sts/, transfer/, bli/, ...); not needed for your own tsv")]
Device = Annotated[str | None, Parameter(help="cpu, cuda or cuda:N; default: a GPU if there is one")]
Dtype = Annotated[_Dtype, Parameter(help="data type of the computation; auto picks the fastest on this machine")]
ComputeDtype = Annotated[
    _ComputeDtype,
    Parameter(
        help="data type of the computation; auto picks the fastest on this machine in torch, float32 in onnx; int8 needs an exported model"
    ),
]
Backend = Annotated[
    _Backend, Parameter(help="onnx runs models exported by tain export, without torch; auto uses it if the model has a graph, else torch")
]
TrustRemoteCode = Annotated[bool, Parameter(help="allow models to run Python code from their folders; review it first", negative=())]
