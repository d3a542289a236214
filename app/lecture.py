"""Two components for pages that do not tick: runs under one scrubber, and the reasons of a derived cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

from darts_core.view.lecture import lecture_css, lecture_js

HTML = '<div class="lecture"></div>'
ADAPTER = """
export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".lecture");
  root.tell = setStateValue;
  if (root.mounted) root.mounted.update(data.content);
  else root.mounted = MOUNT(root, data.content, (at) => root.tell("at", at));
  return () => {
    if (!root.isConnected) root.mounted?.destroy();
  };
}
"""


def lecture(content: Mapping[str, Any], key: str, moved: Callable[[], None]) -> Any:
    """Runs under one scrubber. `content`: from `lecture_data`. `moved` is called with `at` in the state of `key`."""
    return _component("mountLecture")(key=key, data={"content": dict(content)}, height="content", on_at_change=moved)


def reasons(cards: Sequence[Mapping[str, Any]], key: str) -> Any:
    """A card per kept edge. `cards`: what `reason_cards` made."""
    content = [dict(card) for card in cards]
    return _component("mountReasons")(key=key, data={"content": content}, height="content", on_at_change=_nothing)


@cache
def _component(mount: str) -> Callable[..., Any]:
    from streamlit.components.v2 import component  # here: data can be built and tested without a server

    script = lecture_js() + ADAPTER.replace("MOUNT", mount)
    made = component(f"darts_{mount.lower()}", html=HTML, css=lecture_css(), js=script, isolate_styles=False)
    return partial(made)


def _nothing() -> None:
    """Streamlit offers a state value only for names that have a callback."""
