"""What others wrote is shown as it is, in terminals, plots, pages and cards, whatever characters it has."""

import ast
import codecs
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.text import Text as Label
from rich.console import Console

from ertacache.errors import ArgumentError
from ertacache.evaluation.comparison import Row
from ertacache.policy import CalibrationRecord
from ertacache.presenting.evaluation_report import Comparison, report_comparison
from ertacache.presenting.inline_media import inline_svg
from ertacache.presenting.model_card import card
from ertacache.presenting.page import Case, Grid
from ertacache.presenting.pictures import contact_sheet, side_by_side
from ertacache.presenting.policy_plots import policy_figure
from ertacache.presenting.quality_plots import prompt_by_prompt, quality_against_cost
from ertacache.presenting.tables import comparison_table, policy_facts
from ertacache.presenting.ways import Way
from ertacache.untrusted_text import decoded, typed, visible

SOURCE = Path(__file__).parent.parent / "src"
HOSTILE = [
    "$x^{2$",
    "a$b^$c",
    "[red]",
    "[/x]",
    "<b>&amp;",
    "a | b",
    "_x",
    ":smile:",
    "\\$1",
    "#000000",
    'id="x" url(#y)',
]


def printed(thing):
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    console.print(thing)
    return console.file.getvalue()


def row(name):
    return Row(name, 4, [40.0, 41.0, 30.0, 35.0], [0.9] * 4, [2.0] * 4, [1.0] * 4)


def way(name, beside=""):
    return Way(name, 4, 2.0, [40.0, 41.0, 30.0, 35.0], [0.9] * 4, [2.0] * 4, beside)


@pytest.mark.parametrize(
    "content",
    ["é ☕\n".encode(), codecs.BOM_UTF8 + "é ☕\n".encode(), "é ☕\n".encode("utf-16")]
    + [
        mark + "é ☕\n".encode(name)
        for mark, name in [(codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF16_LE, "utf-16-le")]
    ],
)
def test_files_are_read_in_the_encodings_that_editors_write(content):
    assert decoded(content, "file") == "é ☕\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("one\ncafé\n".encode("latin-1"), "0xe9 in line 2"),
        (b"a\0b", "not text"),
        ("é".encode("utf-16-le"), "not text in UTF-8"),
        ("a".encode("utf-16-le"), "byte order mark"),
        ("a".encode("utf-32"), "not text"),
        (codecs.BOM_UTF16_LE + b"a", "not text"),
    ],
)
def test_other_files_are_refused_with_a_cure(content, said):
    with pytest.raises(ArgumentError, match=said):
        decoded(content, "file")


def test_an_argument_that_the_locale_could_not_decode_is_what_was_typed():
    assert typed("un caf\udcc3\udca9") == "un café" == typed("un café")
    with pytest.raises(ArgumentError, match="locale"):
        typed("caf\udce9")


def test_what_a_terminal_would_obey_is_written_out():
    assert visible("a\x1b[2J\rb\x00\x9b\u202e\udce9") == "a\\x1b[2J\\x0db\\x00\\x9b\\u202e\\udce9"
    assert visible("é ☕\n\tb") == "é ☕\n\tb"


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_show_names_and_notes_as_they_are(name, make_policy):
    assert f" {name} " in printed(comparison_table([row("full"), row(name)]))
    record = CalibrationRecord(name, notes=(name,))
    facts = policy_facts(replace(make_policy(8, (1, 2)), calibration=record))
    assert printed(facts).count(name) == 2
    assert [line for line in Grid.of(facts).rows if name in line] == [("budget", name), ("note", name)]


def test_no_control_character_reaches_the_terminal(make_policy):
    record = CalibrationRecord("\x1b[2Ja", notes=("\x1b]0;b\x07",))
    shown = printed(policy_facts(replace(make_policy(8, (1, 2)), calibration=record)))
    assert "\x07" not in shown
    assert "\x1b" not in shown
    assert "\\x1b[2Ja" in shown


@pytest.mark.parametrize("name", HOSTILE)
def test_plots_hold_every_text_as_it_is(name, make_policy, tmp_path):
    figures = [
        quality_against_cost([way(name), way("other", beside=name)]),
        prompt_by_prompt(row(name), row("other")),
        policy_figure(make_policy(8, (1, 2)), {name: [[0.1] * 8]}),
    ]
    for figure in figures:
        figure.savefig(io.BytesIO())
        labels = [label for label in figure.findobj(Label) if name in label.get_text()]
        assert labels
        assert not any(label.get_parse_math() for label in labels)
        drawn = re.findall(r"<text[^>]*>([^<]*)</text>", inline_svg(figure))
        escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert any(escaped in text for text in drawn)
    picture, clip = torch.rand(3, 8, 8), torch.rand(6, 3, 8, 8)
    side_by_side({name: [picture]}, [name], tmp_path / "side.png")
    contact_sheet({name: [clip]}, [name], tmp_path / "sheet.png")
    assert {path.name for path in tmp_path.iterdir()} == {"side.png", "sheet.png"}


def test_a_page_holds_every_text_as_it_is(make_policy, tmp_path):
    name = '</script><b> $x^{2$ [/x] "a"  b \x1b[2J\udce9'
    pictures = {key: torch.rand(3, 8, 8) for key in ("full", name, "other")}
    cases = [Case(name, name, pictures, {name: "40 dB"})]
    ways = [way(name), way("other", beside=name)]
    report_comparison(Comparison(name, name, ways, {name: make_policy(8, (1,))}, cases, {}), tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 1
    assert "\x1b" not in page
    escaped = "&lt;/script&gt;&lt;b&gt; $x^{2$ [/x] &#34;a&#34;  b \\x1b[2J\\udce9"
    # What the menus choose is compared with the pictures' names; a browser takes the spaces out of a menu's text.
    assert page.count(f'<option value="{escaped}"') == 2
    assert page.count(f'data-name="{escaped}"') == 2


def test_a_card_holds_every_text_as_it_is(make_policy):
    told = "# a|b *c* [d](e) <f> `g` $h$ _i_ j_k &amp;\n---\n| x |"
    shown = r"\# a\|b \*c\* \[d\](e) \<f\> \`g\` \$h\$ \_i\_ j_k \&amp; --- \| x \|"
    policy = replace(make_policy(8, (1, 2)), calibration=CalibrationRecord(told, notes=(told,)))
    lines = card(policy, "you/name").splitlines()
    assert f"| budget | {shown} |" in lines
    assert f"- {shown}" in lines


def test_every_text_file_is_read_and_written_in_an_encoding_that_does_not_hang_on_the_locale():
    def without(path):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("read_text", "write_text"):
                yield from [] if "encoding" in [k.arg for k in node.keywords] else [f"{path.name}:{node.lineno}"]

    assert [found for path in SOURCE.rglob("*.py") for found in without(path)] == []


def test_plots_leave_the_backend_of_a_notebook_alone():
    code = (
        "import matplotlib; matplotlib.use('svg')\n"
        "from ertacache.presenting import inline_media, pictures, policy_plots, evaluation_report\n"
        "assert matplotlib.get_backend() == 'svg', matplotlib.get_backend()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
