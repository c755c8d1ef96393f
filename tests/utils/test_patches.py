"""Attributes that are replaced on objects for a while."""

from __future__ import annotations

from lit_distill.utils.patches import Patches


class Bell:
    def ring(self) -> str:
        return "ding"


def test_attributes_are_restored_to_the_objects_own_or_to_the_class() -> None:
    plain, own = Bell(), Bell()
    own_ring = vars(own)["ring"] = lambda: "dong"
    patches = Patches()
    for bell in (plain, own, own):
        patches.set(bell, "ring", lambda: "silence")
    assert plain.ring() == own.ring() == "silence"
    patches.restore()
    assert plain.ring() == "ding"
    assert "ring" not in vars(plain)
    assert vars(own)["ring"] is own_ring


def test_restoring_twice_leaves_what_was_set_in_between() -> None:
    bell, patches = Bell(), Patches()
    patches.set(bell, "ring", lambda: "silence")
    patches.restore()
    vars(bell)["ring"] = lambda: "dong"
    patches.restore()
    assert bell.ring() == "dong"
