"""The storage of a run: how it is opened, what is in it, and whether it holds the expected study."""

from __future__ import annotations

import gc
import json
import re
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

import optuna

from reborn_nas.commands import install_line
from reborn_nas.errors import RebornError, StudyError
from reborn_nas.metric import ACCURACY, Metric
from reborn_nas.study.config.objectives import directions
from reborn_nas.study.config.urls import (
    is_readable,
    mask_url,
    remember_url,
    require_file,
    storage_file,
    without_secrets,
)
from reborn_nas.study.plan.phases import DESIGN, KINDS, RETEST
from reborn_nas.study.store.attempts import LeaseWatch, identity
from reborn_nas.study.store.compat import cached, set_deadline
from reborn_nas.study.store.journal import open_journal
from reborn_nas.study.store.patience import PATIENCE, Question, asking, be_patient, cause_of, is_passing

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.study._frozen import FrozenStudy


__all__ = ["RunStore", "connect", "find_store", "open_run"]

UNREACHABLE = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""Options by which PostgreSQL's driver detects a dead network, instead of waiting for two hours."""

PROXY_READY = 60.0
"""Least seconds to wait for a gRPC proxy at first, since it may have been started at the same time."""

DEADLINE = 120.0
"""Seconds after which a call to a gRPC proxy is repeated: without a deadline it waits forever if the proxy's machine is
gone. Ten thousand trials are sent in a tenth of that.
"""

EXTRAS = ("postgresql", "grpc")
"""Schemes of a storage's URL whose drivers are an optional extra of the same name."""

OTHER_DRIVERS = {"mysql": "pip install sqlalchemy pymysql", "sqlite": "pip install sqlalchemy"}

FORMAT = "reborn_nas:format"
"""Attribute of every run's first study, written when all three exist."""

LEADER = -1
"""The leader's lease, in place of a trial id."""

READING = 20.0
"""Seconds that a reader waits for a storage to answer."""

SCHEMA_RACES = 20
"""Retries when several workers create the tables of an empty database at once."""


def connect(
    url: str, *, patience: float = 0.0, read_only: bool = False, results_only: bool = False
) -> BaseStorage:
    """Open the storage at `url`, or create it if it does not exist.

    `journal:///path`, `sqlite:///path`, `postgresql://…`, `mysql://…` or `grpc://host:port`.

    Args:
        patience: seconds to wait for a database that does not answer.
        read_only: the storage is not created and nothing is written to it; a database without Optuna's tables reads as
            one without studies.
        results_only: as in `open_journal`; a database always reads complete trials.

    Raises:
        StudyError: it cannot be opened; the message holds no credentials.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if not is_readable(url):
        raise StudyError(
            f"storage {mask_url(url)} cannot be read as dialect://user:password@host:port/database; write the special "
            "characters of a user name or password as %40 for @, %3A for :, %2F for /, %3F for ?"
        )
    remember_url(url)
    if read_only:
        require_file(url)
    try:
        storage = _open(url, patience, read_only, results_only)
    except RebornError:
        raise
    except ImportError as error:
        kind = re.split(r"[+:]", url)[0]
        install = install_line(kind) if kind in EXTRAS else OTHER_DRIVERS.get(kind, "")
        raise StudyError(
            f"storage {mask_url(url)}: the driver is missing ({error}); {install or 'install it with pip'}"
        ) from None
    except Exception as error:  # drivers raise any exception, with the URL inside
        text = " ".join(without_secrets(str(error), url).split())[:300]
        raise StudyError(
            f"storage {mask_url(url)} cannot be opened: {text or type(error).__name__}"
        ) from None
    if read_only:
        _refuse_changes(storage, mask_url(url))
    return be_patient(
        storage, name=f"storage {mask_url(url)}", clean=lambda text: without_secrets(text, url),
        patience=READING if read_only else PATIENCE,
    )  # fmt: skip


def _open(url: str, patience: float, read_only: bool, results_only: bool) -> BaseStorage:
    if url.startswith("journal://"):
        with _no_collection():
            path = Path(url.removeprefix("journal://")).absolute()
            return open_journal(path, read_only=read_only, results_only=results_only)
    if url.startswith("grpc://"):
        from optuna.storages import GrpcStorageProxy

        parts = urlsplit(url)
        proxy = GrpcStorageProxy(host=parts.hostname or "localhost", port=parts.port or 13000)
        set_deadline(proxy, DEADLINE)
        with asking(f"storage {mask_url(url)}"):
            proxy.wait_server_ready(timeout=max(patience, PROXY_READY))
        return proxy
    with asking(f"storage {mask_url(url)}") as question:
        return _database(url, patience, read_only, question)


def _refuse_changes(storage: BaseStorage, shown: str) -> None:
    """Make every call that would change `storage` raise."""

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise StudyError(f"storage {shown} is open for reading only")

    for name in dir(type(storage)):
        if name.startswith(("create_", "set_", "delete_")):
            setattr(storage, name, refused)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable Python's garbage collector inside the context: while ten thousand trials are read it would scan all
    objects again and again, find nothing, and take three fifths of the time.
    """
    works = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if works:
            gc.enable()


def _database(url: str, patience: float, read_only: bool, question: Question) -> BaseStorage:
    """An SQL database. A connection that died while idle is detected when it is used, and the call is repeated."""
    if url.startswith("postgresql://"):  # the installed driver: SQLAlchemy's default changed in 2.1
        found = next((name for name in ("psycopg2", "psycopg") if find_spec(name)), "psycopg2")
        url = url.replace("postgresql://", f"postgresql+{found}://", 1)
    if url.startswith("mysql://") and find_spec("MySQLdb") is None:
        url = url.replace("mysql://", "mysql+pymysql://", 1)
    options: dict[str, Any] = {} if url.startswith("sqlite") else {"pool_size": 2}
    if url.startswith("postgresql"):
        given = urlsplit(url).query
        options["connect_args"] = {key: value for key, value in UNREACHABLE.items() if key not in given}
    if read_only:
        url = _reading(url, options)
    began, races = time.monotonic(), 0
    while True:
        try:
            if read_only and not _has_studies(url, options):
                return optuna.storages.InMemoryStorage()
            storage = optuna.storages.RDBStorage(url, engine_kwargs=options, skip_table_creation=read_only)
            return cached(storage)
        except Exception as error:
            if "already exists" in str(error) and races < SCHEMA_RACES:
                races += 1  # another worker is creating the same tables
            elif not is_passing(error) or time.monotonic() - began > patience:
                raise
            question.trouble = cause_of(error, lambda text: without_secrets(text, url))
        time.sleep(0.5)


def _reading(url: str, options: dict[str, Any]) -> str:
    """The URL that opens a database for reading; the engine's options are changed in place."""
    file = storage_file(url)
    if file is not None:
        return f"sqlite:///file:{quote(str(file))}?mode=ro&uri=true"
    if url.startswith("postgresql"):
        options["execution_options"] = {"postgresql_readonly": True}
    return url


def _has_studies(url: str, options: Mapping[str, Any]) -> bool:
    """Whether the database holds Optuna's tables, which Optuna would create on opening it."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(url, **options)
    try:
        return {"studies", "trials", "version_info", "alembic_version"} <= set(
            sqlalchemy.inspect(engine).get_table_names()
        )
    finally:
        engine.dispose()


class RunStore:
    """The studies `NAME`, `NAME/design` and `NAME/confirm` in one storage, and the run's further attributes.

    The attributes of the study `NAME` hold the run's settings, plan and decisions, so that the storage is the complete
    run; the files of the run folder are copies for people.
    """

    def __init__(self, storage: BaseStorage, name: str, studies: Mapping[str, Study]) -> None:
        self.storage = storage
        self.name = name
        self._studies = dict(studies)

    def study(self, phase: str) -> Study:
        """The study that holds the runs of `phase`."""
        return self._studies[KINDS[phase].study]

    def studies(self) -> tuple[Study, ...]:
        """All three: the exploration's, the designed runs', the retesting runs'."""
        return tuple(self._studies.values())

    def void(self) -> frozenset[int]:
        """Ids of finished trials whose results do not count: those of a failed study that was restarted."""
        return frozenset(self.attribute("void", ()))

    @contextmanager
    def leading(self, watch: LeaseWatch) -> Iterator[bool]:
        """True for one process at a time, False for the others; a process that dies inside the context is replaced.

        Two that enter within the same millisecond may both get True, which does no harm to the queue.
        """
        mark = {**identity(), "beat": uuid.uuid4().hex}
        held = self.attribute("leading")
        own = held is not None and all(held[key] == mark[key] for key in ("host", "pid", "started"))
        if held is not None and not own and not watch.ended(LEADER, held):
            yield False
            return
        self.keep("leading", mark)
        try:
            yield self.attribute("leading") == mark
        finally:
            self.keep("leading", None)

    def attribute(self, key: str, default: Any = None) -> Any:
        """The value that the run stores under `key`."""
        return self._studies[""].user_attrs.get(f"reborn_nas:{key}", default)

    def keep(self, key: str, value: Any) -> None:
        """Store the JSON value `value` under `key`."""
        json.dumps(value)
        self._studies[""].set_user_attr(f"reborn_nas:{key}", value)


def open_run(
    storage: BaseStorage,
    name: str,
    *,
    create: bool = False,
    objectives: Sequence[str] = ("accuracy",),
    metric: Metric = ACCURACY,
) -> RunStore:
    """The run `name` in `storage`.

    Args:
        create: create it if it does not exist.
        objectives: of the exploration, see `objectives.OBJECTIVES`; an existing run keeps its own.
        metric: by which trainings are judged; an existing run keeps its own.

    Raises:
        StudyError: it does not exist (and `create` is False), or it is not a study of reborn-nas.
    """
    known = {summary.study_name: summary for summary in storage.get_all_studies()}
    parts = ("", DESIGN, RETEST)
    if name not in known and not create:
        others = ", ".join(
            sorted(known.keys() - {f"{one}{suffix}" for one in known for suffix in parts if suffix})
        )
        raise StudyError(f"there is no study {name!r} in the storage; it holds {others or 'none'}")
    own = name in known and FORMAT in known[name].user_attrs
    there = [known[name + suffix] for suffix in parts if name + suffix in known]
    if not own and (not create or any(_is_used(storage, study) for study in there)):
        raise StudyError(
            f"study {name!r} was not made by reborn-nas: it lacks its attributes; choose another name"
        )
    absent = [name + suffix for suffix in parts if name + suffix not in known]
    if absent and not create:
        raise StudyError(
            f"study {name!r} lacks its part {', '.join(absent)}; the same `reborn-nas search` command creates it again"
        )
    sampler = optuna.samplers.RandomSampler(seed=0)
    studies = {}
    for suffix in parts:
        if name + suffix in known:
            studies[suffix] = optuna.load_study(storage=storage, study_name=name + suffix, sampler=sampler)
            continue
        studies[suffix] = optuna.create_study(
            storage=storage,
            study_name=name + suffix,
            directions=directions(objectives if suffix == "" else ("accuracy",), metric),
            sampler=sampler,
            load_if_exists=True,
        )
    store = RunStore(storage, name, studies)
    with _no_collection():  # the trials are read next; a database caches the finished ones
        for study in studies.values():
            study.get_trials(deepcopy=False)
    if create and not own:
        for suffix, study in studies.items():
            study.set_metric_names([metric.name, *(objectives[1:] if suffix == "" else ())])
        store.keep("format", 1)
    return store


def _is_used(storage: BaseStorage, study: FrozenStudy) -> bool:
    """Whether `study` holds anything; a search that was killed as it began leaves it empty."""
    return bool(study.user_attrs) or bool(storage.get_all_trials(study._study_id, deepcopy=False))


class Named(Protocol):
    """The fields of a configuration by which its run is opened; `StudyConfig` is one."""

    @property
    def storage_url(self) -> str:
        """The storage's URL."""

    @property
    def study_name(self) -> str:
        """The run's name in the storage."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """As in `open_run`."""

    @property
    def judged_by(self) -> Metric:
        """As in `open_run`."""


def find_store(config: Named, *, patience: float = 0.0) -> RunStore | None:
    """The run's store, or None if it does not exist; `patience` as in `connect`. Nothing is created."""
    url = config.storage_url
    file = storage_file(url)
    if file is not None and not file.is_file():
        return None
    makes_tables = not url.startswith(("journal://", "grpc://"))
    storage = connect(url, patience=patience, read_only=makes_tables)
    if config.study_name not in {summary.study_name for summary in storage.get_all_studies()}:
        return None
    if makes_tables:
        storage = connect(url, patience=patience)
    return open_run(
        storage, config.study_name, create=True, objectives=config.objectives, metric=config.judged_by
    )
