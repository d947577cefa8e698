"""Which choices an architecture may make at the sites of a network, all faults at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from reborn_nas.activations import complete, get_family
from reborn_nas.architecture import ORIGINAL, Architecture, Choice
from reborn_nas.backbone.layers.steps import Refusal, Widening
from reborn_nas.backbone.sites.site import Discovery
from reborn_nas.backbone.trace.events import Trace
from reborn_nas.backbone.widen.widening import widening
from reborn_nas.errors import RebornError, SiteError


def everywhere(found: Discovery, choice: Choice | str) -> dict[str, Choice]:
    """`choice` at every site that admits it, together.

    Raises:
        SiteError: when no site does.
    """
    wanted = complete(choice)
    names = [site.name for site in found.sites if site.admits(wanted)]
    if not names:
        reasons = sorted({site.refusal(wanted) or "" for site in found.sites})[:3]
        reasons = reasons or [f"{other.name}: {other.reason}" for other in found.others[:3]]
        raise SiteError(
            f"no activation site of this network admits {wanted.label}: {'; '.join(reasons) or 'it has no sites'}"
        )
    if wanted != ORIGINAL and _doubles(wanted) and _joint_refusal(found, names) is not None:
        kept: list[str] = []  # each alone can be widened, all together cannot: take what fits, in order
        for name in names:
            if _joint_refusal(found, [*kept, name]) is None:
                kept.append(name)
        names = kept
    return dict.fromkeys(names, wanted)


def admitted(architecture: Architecture, found: Discovery) -> dict[str, Choice]:
    """The complete choices by site. Raises SiteError with every fault."""
    known = {site.name: site for site in found.sites}
    chosen: dict[str, Choice] = {}
    faults: list[str] = []
    for name, choice in architecture:
        site = known.get(name)
        if site is None:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
            hint = f"; did you mean {', '.join(close)}?" if close else f"; the network has {len(known)} sites"
            faults.append(f"unknown site {name!r}{hint}")
            continue
        try:
            whole = complete(choice)
        except RebornError as error:
            faults.append(f"site {name!r}: {error}")
            continue
        reason = site.refusal(whole)
        if reason is not None:
            other = " or choose another form" if site.fault is None else ""
            place = site.span.place if site.span is not None and ".py" not in reason else ""
            where = f"site {name!r} ({place})" if place else f"site {name!r}"
            faults.append(f"{where}: {reason}; exclude the site{other}")
        elif whole != ORIGINAL:
            chosen[name] = whole
    if faults:
        raise SiteError(
            faults[0]
            if len(faults) == 1
            else f"{len(faults)} sites cannot be as asked:" + "".join(f"\n  - {fault}" for fault in faults)
        )
    return chosen


def _doubles(choice: Choice) -> bool:
    return get_family(choice.name).channel_factor(**choice.options) > 1


def widened(found: Discovery, chosen: Mapping[str, Choice]) -> Widening | None:
    """What grows behind the doubled sites of an architecture; None where it doubles none."""
    doubled = [site for site in found.sites if site.name in chosen and _doubles(chosen[site.name])]
    if not doubled:
        return None
    others = [site for site in found.sites if site.name in chosen and site not in doubled]
    answer = widening(_runs(found), doubled, among=others)
    if isinstance(answer, Refusal):
        names = ", ".join(repr(site.name) for site in doubled[:5])
        raise SiteError(
            f"sites {names} cannot double their channels together: {answer.reason}; choose a compressed form for some"
        )
    return answer


def _joint_refusal(found: Discovery, names: Sequence[str]) -> Refusal | None:
    wanted = set(names)
    answer = widening(_runs(found), [site for site in found.sites if site.name in wanted])
    return answer if isinstance(answer, Refusal) else None


def _runs(found: Discovery) -> list[Trace]:
    return [found.eval_trace, *([found.train_trace] if found.train_trace is not None else [])]
