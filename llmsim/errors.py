"""The errors a user can meet, as one small tree.

    LlmsimError                    anything llmsim raises on purpose
    +-- InputError                 a file, a value or an argument is wrong            exit code 3
    |   +-- ScenarioError          scenario file or option
    |   +-- CatalogError           hardware or workload catalogue
    |   +-- ModelError             config.json of a model
    |   +-- TraceError             a row or the header of a trace
    +-- InfeasibleError            the question has no answer: it does not fit         exit code 4
    +-- StalledError               the simulation stands still: a bug of a scheduler   exit code 70

Every class takes one message and nothing else: SimPy re-makes the exception of a process from its
arguments.  A message says where, what, and what was given; an optional second line ``hint: ...``
says what would do.
"""


class LlmsimError(Exception):
    """Base of every error that llmsim raises on purpose."""

    exit_code = 70


class InputError(LlmsimError):
    """A file, a value or an argument is wrong."""

    exit_code = 3


class ScenarioError(InputError):
    """A scenario file or an option on the command line is wrong."""


class CatalogError(InputError):
    """An entry of the hardware or workload catalogue is missing or wrong."""


class ModelError(InputError):
    """A model's config.json is missing, broken, or of a kind that is not supported."""


class TraceError(InputError):
    """A trace's format is unknown, or one of its rows is broken."""


class InfeasibleError(LlmsimError):
    """The scenario is well formed, but cannot run: the model or the plan does not fit."""

    exit_code = 4


class StalledError(LlmsimError):
    """Requests wait, and nothing in the simulation can ever serve them."""

    exit_code = 70
