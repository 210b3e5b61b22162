"""The wiring: joints found again, and what the page says of a graph."""

import itertools
import re
from collections import Counter

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectrank.report import _flow as flow_module
from spectrank.report import _wiring as wiring_module
from spectrank.report import render_html
from spectrank.report._flow import flow
from spectrank.report._graph import read_graph

EVIL = "</script><img src=x onerror=alert(1)>"
TIMES = "\N{MULTIPLICATION SIGN}"
pytestmark = pytest.mark.usefixtures("small_library")


def _node(key, kind="layer", **more):
    node = {"id": key, "kind": kind, "name": f"net.{key}", "op": "linear"}
    if kind == "layer":
        node["parameters"] = {"weight": f"net.{key}.weight", "bias": f"net.{key}.bias"}
    return node | {"shape": [4, 6] if kind == "layer" else None, "note": None} | more


def _link(source, target, *through, reason=None):
    return {"source": source, "target": target, "through": list(through)} | {
        "reason": reason
    }


def _graph(nodes, links):
    return {"version": 1, "nodes": nodes, "links": links}


def _residual(num_blocks, *, norm_first):
    """Links of a residual net as they reach a table: one for each source and target."""
    nodes, links = [_node("x", "input"), _node("stem")], [_link("x", "stem")]
    stream = {"stem": []}
    before, after = (["layer_norm"], []) if norm_first else ([], ["layer_norm"])
    for k in range(num_blocks):
        first, second = f"{k}a", f"{k}b"
        nodes += [_node(first), _node(second)]
        links += [_link(key, first, *steps, *before) for key, steps in stream.items()]
        links.append(_link(first, second, "relu"))
        stream = {key: [*steps, "sum", *after] for key, steps in stream.items()}
        stream[second] = ["sum", *after]
    nodes.append(_node("y", "output"))
    links += [_link(key, "y", *steps) for key, steps in stream.items()]
    return _graph(nodes, links)


# Joints


def _languages(net, graph):
    """(source, steps, target) of every way from node to node through the drawing."""
    pairs = [(arrow.tail, arrow.head) for arrow in net.arrows]
    assert nx.is_directed_acyclic_graph(nx.DiGraph(pairs))
    heads = {}
    for arrow in net.arrows:
        heads.setdefault(arrow.tail, []).append(arrow.head)
    ways = set()
    for at, node in enumerate(graph.nodes):
        stack = [(head, ()) for head in heads.get(at, [])]
        while stack:
            vertex, steps = stack.pop()
            found = net.vertices[vertex]
            if found.node is not None:
                ways.add((node.id, steps, graph.nodes[found.node].id))
                continue
            stack += [(head, steps + found.steps) for head in heads.get(vertex, [])]
    return ways


LINKS = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.integers(0, 6),
        st.lists(st.sampled_from(["relu", "norm", "sum", "cat"]), max_size=5),
    ),
    max_size=14,
)


@given(LINKS)
@settings(max_examples=150, deadline=None)
def test_the_drawing_has_the_ways_of_the_links_and_no_other(found):
    pairs = [(min(a, b), max(a, b), steps) for a, b, steps in found if a != b]
    nodes = [_node(str(k)) for k in range(7)]
    links = [_link(str(a), str(b), *steps) for a, b, steps in pairs]
    graph = read_graph(_graph(nodes, links))
    assert not graph.faults
    stated = {(x.source, x.through, x.target) for x in graph.links}
    assert _languages(flow(graph), graph) == stated


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("num_blocks", [1, 2, 5, 24])
def test_a_residual_net_has_one_joint_and_one_skip_for_each_block(
    num_blocks, norm_first
):
    graph = read_graph(_residual(num_blocks, norm_first=norm_first))
    # Quadratic in the depth: all that the stream holds flows into every block.
    assert len(graph.links) >= num_blocks * (num_blocks + 1) // 2
    net = flow(graph)
    joints = [at for at, v in enumerate(net.vertices) if v.sign == "+"]
    assert len(joints) == num_blocks
    into = Counter(arrow.head for arrow in net.arrows)
    assert [into[at] for at in joints] == [2] * num_blocks
    pills = Counter(v.steps for v in net.vertices if v.node is None and not v.sign)
    assert pills == {("relu",): num_blocks, ("layer_norm",): num_blocks}
    # A chain with one more line for each block.
    assert len(net.arrows) == len(net.vertices) - 1 + num_blocks


def test_roles_of_an_attention_meet_in_one_pill():
    through = [["view", "attention:query"], ["view", "attention:key"]]
    through += [["transpose", "view", "attention:value"]]
    nodes = [_node(key) for key in ("q", "k", "v", "o")]
    links = [
        _link(key, "o", *steps, "reshape")
        for key, steps in zip("qkv", through, strict=True)
    ]
    net = flow(read_graph(_graph(nodes, links)))
    (pill,) = (at for at, v in enumerate(net.vertices) if v.node is None)
    assert net.vertices[pill].steps == ("attention",)
    # Steps that only move entries take no room but stay known.
    notes = {arrow.tail: arrow.notes for arrow in net.arrows if arrow.head == pill}
    assert [notes[at].roles for at in range(3)] == [("query",), ("key",), ("value",)]
    assert notes[2].steps == ("transpose", "view")
    (last,) = (arrow for arrow in net.arrows if arrow.tail == pill)
    assert last.notes.steps == ("reshape",)


def test_a_sum_within_a_sum_stays_apart_from_a_sum_of_three():
    nodes = [_node(key) for key in "abct"]
    flat = [_link(key, "t", "sum") for key in "abc"]
    nested = [
        _link("a", "t", "sum", "relu", "sum"),
        _link("b", "t", "sum", "relu", "sum"),
    ]
    nested.append(_link("c", "t", "sum"))
    signs = [
        sum(v.sign == "+" for v in flow(read_graph(_graph(nodes, links))).vertices)
        for links in (flat, nested)
    ]
    assert signs == [1, 2]


def test_ids_of_steps_are_used_where_they_are_given_and_dropped_where_they_lie():
    nodes = [_node(key) for key in "abst"]
    links = [
        _link("a", "s", "relu") | {"path": ["p1"]},
        _link("a", "t", "relu") | {"path": ["p2"]},
    ]
    twice = flow(read_graph(_graph(nodes, links)))
    assert sum(v.steps == ("relu",) for v in twice.vertices) == 2
    for link in links:
        del link["path"]
    once = flow(read_graph(_graph(nodes, links)))
    assert sum(v.steps == ("relu",) for v in once.vertices) == 1
    # A path that does not fit its steps is none.
    links[0]["path"] = ["p1", "p2"]
    assert flow(read_graph(_graph(nodes, links))) == once
    crossed = [
        _link("a", "t", "relu", "sum") | {"path": ["p", "q"]},
        _link("b", "t", "sum", "relu") | {"path": ["q", "p"]},
    ]
    graph = read_graph(_graph(nodes, crossed))
    assert _languages(flow(graph), graph) == {
        ("a", ("relu", "sum"), "t"),
        ("b", ("sum", "relu"), "t"),
    }


def test_links_of_too_many_steps_are_drawn_without_them(monkeypatch):
    monkeypatch.setattr(flow_module, "MAX_STEPS", 10)
    graph = read_graph(_residual(4, norm_first=True))
    net = flow(graph)
    assert not net.has_steps
    assert len(net.vertices) == len(graph.nodes)
    pairs = {(x.source, x.target) for x in graph.links}
    assert len(net.arrows) == len(pairs)


# The page


def _page(table, graph, rows=()):
    return render_html(table(rows, {"graph": graph}))


def _wiring(page):
    start = page.index('<section id="wiring"')
    return page[start : page.index("</section>", start)]


def test_a_box_shows_name_operation_shape_and_stable_rank_and_leads_to_its_layer(
    matrix, table, read_page
):
    nodes = [_node("x", "input"), _node("fc1"), _node("fc2"), _node("y", "output")]
    links = [_link("x", "fc1"), _link("fc1", "fc2", "relu"), _link("fc2", "y")]
    rows = matrix("net.fc1.weight", [2.0, 1.0], m=4, n=6)
    wiring = _wiring(_page(table, _graph(nodes, links), rows))
    assert wiring.count('<a href="#layer=net.fc1.weight&amp;view=linear">') == 1
    assert wiring.count("<a href=") == 1
    _, words = read_page(wiring)
    assert f"fc1 linear · 4 {TIMES} 6 stable rank 1.250" in words
    assert f"fc2 linear · 4 {TIMES} 6 y" in words.replace("net.y", "y")
    assert "1 input, 2 layers, 1 output, 3 links" in words
    # 1.25 of at most 4, on a box whose inside is two pixels narrower.
    width = float(re.search(r'class="node layer"[^>]* width="([\d.]+)"', wiring)[1])
    share = float(re.search(r'class="share"[^>]* width="([\d.]+)"', wiring)[1])
    assert share == pytest.approx(1.25 / 4 * (width - 2), abs=0.06)
    assert "net.fc1 → net.fc2 through relu" in words


def test_several_matrices_of_a_node_are_shown_side_by_side(matrix, table, read_page):
    node = _node("a", parameters={"weight_hh": "hh", "bias": "b", "weight_ih": "ih"})
    rows = [*matrix("hh", [1.0]), *matrix("ih", [1.0, 1.0])]
    wiring = _wiring(_page(table, _graph([node], []), rows))
    assert "stable rank 1.000 · 2.000" in read_page(wiring)[1]
    assert "layer=hh" in wiring
    assert 'class="share"' not in wiring


def test_nodes_of_one_weight_are_marked_as_tied(matrix, table, read_page):
    nodes = [_node("a"), _node("b"), _node("c"), _node("d")]
    nodes[1]["parameters"]["weight"] = nodes[0]["parameters"]["weight"]
    rows = matrix("net.c.weight", [1.0])
    skip = {"kind": "skip", "subject": "net.d.weight", "metric": ""}
    rows += [skip | {"reason": "tied to net.c.weight", "tied_to": "net.c.weight"}]
    wiring = _wiring(_page(table, _graph(nodes, []), rows))
    words = read_page(wiring)[1]
    assert "tied 1 net.a , net.b share net.a.weight" in words
    assert "tied 2 net.c , net.d share net.c.weight" in words
    assert len(re.findall(r'class="mark"[^>]*>tied [12]<', wiring)) == 4
    # The tied copy leads to the layer that was measured.
    assert wiring.count('<a href="#layer=net.c.weight') == 2


def test_what_is_not_understood_is_named_with_its_reason(table, read_page):
    nodes = [
        _node("a"),
        _node("u", "unknown", op="topk", note="depends on the data"),
        _node("v", "unknown", name="", op="diff", parameters=None),
    ]
    links = [_link("a", "u", reason="leads nowhere known"), _link("u", "v", "abs")]
    skip = {"kind": "skip", "subject": "net.u", "metric": "graph", "status": "skipped"}
    page = _page(
        table, _graph(nodes, links), [skip | {"reason": "depends on the data"}]
    )
    wiring, words = _wiring(page), read_page(page)[1]
    assert "Not understood 2 net.u topk depends on the data" in words
    assert "diff v" in words
    assert "no reason given" in words
    assert "not fully known leads nowhere known" in words
    assert len(re.findall(r'class="node unknown"', wiring)) == 2
    assert len(re.findall(r'class="wire odd"', wiring)) == 1
    # Unknown operations are no skipped tensors.
    assert "Nothing was measured. The table holds the wiring of a model" in words
    assert "skipped 0" in words


def test_a_table_of_wiring_alone_makes_a_page(table, read_page, embedded):
    page = _page(table, _residual(3, norm_first=True))
    words = read_page(page)[1]
    assert "<h1>Wiring of a model</h1>" in page
    assert "Layer by layer" not in words
    assert embedded(page)["matrices"] == []
    wiring = _wiring(page)
    assert len(re.findall(r'<g class="joint">', wiring)) == 3
    assert len(re.findall(r'class="wire skip"', wiring)) == 3
    assert "Click a box" not in words
    assert "Wiring" not in read_page(render_html(table([])))[1]


MALFORMED = {
    "the graph is no mapping but list": [],
    "the graph is no mapping but NoneType": None,
    "the graph has no list of nodes": {"version": 1, "links": []},
    "the graph has no list of links": {"version": 1, "nodes": [_node("a")]},
    "the graph has version 2": _graph([_node("a")], []) | {"version": 2},
    "node 1 is left out: it has no id": _graph([_node("a"), {"kind": "layer"}], []),
    "node 0 is left out: it has no id": _graph(["a", 3, None], []),
    "node 1 is left out: the id &#39;a&#39; is taken": _graph([_node("a")] * 2, []),
    "names no kind and is drawn as unknown": _graph([{"id": "a"}], []),
    "link 0 is left out: there is no node &#39;b&#39;": _graph(
        [_node("a")], [_link("a", "b")]
    ),
    "link 0 is left out: it is no mapping": _graph([_node("a")], [3]),
    "there is no node &#39;&#39;": _graph([_node("a")], [{}]),
    "the link from net.b back to net.a closes a cycle": _graph(
        [_node("a"), _node("b")], [_link("a", "b"), _link("b", "a")]
    ),
    "the link from net.a back to net.a closes a cycle": _graph(
        [_node("a")], [_link("a", "a")]
    ),
    "and 18 faults more": _graph([{}] * 30, []),
}


def test_a_graph_that_does_not_hold_together_is_said_to_be_so(table):
    for message, graph in MALFORMED.items():
        wiring = _wiring(_page(table, graph))
        assert "The graph does not hold together" in wiring
        assert message in wiring


def test_entries_of_unexpected_types_do_no_harm(table, read_page):
    odd = {"id": 1, "kind": 2, "name": ["x"], "op": {}, "parameters": [3], "note": 5}
    nodes = [
        odd | {"shape": shape, "id": k}
        for k, shape in enumerate(
            [[1], [1, 2, 3], "ab", [0, 4], [True, 2], [1.5, 2], None]
        )
    ]
    links = [{"source": 0, "target": 1, "through": "relu", "reason": 7, "path": 4}]
    wiring = _wiring(_page(table, _graph(nodes, links)))
    assert TIMES not in wiring
    assert "does not hold together" not in wiring
    assert "The graph has no nodes" in _wiring(_page(table, _graph([], [])))


def test_a_hostile_name_is_only_text(matrix, table, read_page):
    nodes = [
        _node("a", name=EVIL, op=EVIL, parameters={EVIL: EVIL}, note=EVIL),
        _node(EVIL, "unknown", note=EVIL),
        _node("b", EVIL),
    ]
    links = [_link("a", EVIL, EVIL, "sum:" + EVIL, reason=EVIL), _link(EVIL, "b", EVIL)]
    links += [_link(EVIL, "nowhere"), _link("b", "a")]
    page = _page(table, _graph(nodes, links), matrix(EVIL, [1.0]))
    elements, _ = read_page(page)
    assert EVIL not in page
    assert not [tag for tag, _ in elements if tag == "img"]
    assert not [name for _, found in elements for name in found if name[:2] == "on"]
    for tag, found in elements:
        for name in ("src", "href"):
            address = found.get(name) or "#"
            assert address[0] == "#" or address == "data:,", (tag, address)


def _chain(size):
    nodes = [_node(str(k)) for k in range(size)]
    links = [_link(str(k), str(k + 1), "relu") for k in range(size - 1)]
    return _graph(nodes, links)


def test_four_hundred_layers_stay_under_a_megabyte(table, read_page):
    wiring = _wiring(_page(table, _chain(400)))
    assert len(wiring.encode()) < 1e6
    assert wiring.count('class="node layer"') == 400
    residual = _wiring(_page(table, _residual(60, norm_first=True)))
    assert len(residual.encode()) < 1e6
    assert "The first 1000 of 1952 links" in read_page(residual)[1]


def test_what_is_left_out_of_a_large_drawing_is_said(table, read_page, monkeypatch):
    monkeypatch.setattr(wiring_module, "MAX_BOXES", 5)
    monkeypatch.setattr(wiring_module, "MAX_LISTED", 6)
    wiring = _wiring(_page(table, _chain(9)))
    assert wiring.count('class="node layer"') == 5
    words = read_page(wiring)[1]
    assert "The first 5 of 9 nodes are drawn." in words
    assert "The first 6 of 8 links." in words
    monkeypatch.setattr(wiring_module, "MAX_LINES", 4)
    links = [_link(str(a), str(b)) for a, b in itertools.combinations(range(5), 2)]
    graph = _graph([_node(str(k)) for k in range(5)], links)
    wiring = _wiring(_page(table, graph))
    assert "6 of the longest lines are not drawn." in read_page(wiring)[1]
    # The four that stay are the chain.
    assert wiring.count('<path class="wire') == 4
    assert 'class="wire plain" d="M' in wiring
    assert not re.search(r'class="wire[^>]* d="[^"]*C', wiring)


def test_the_graph_is_not_repeated_in_the_recorded_provenance(table):
    page = _page(table, _chain(3))
    recorded = page[page.index("Everything recorded") :]
    assert "drawn under Wiring" in recorded
    assert "net.1" not in recorded


def test_of_several_graphs_the_first_is_drawn_and_the_others_counted(table, read_page):
    from spectrank.table import Table

    parts = [table([], {"graph": _chain(size)}) for size in (2, 3)]
    words = read_page(render_html(Table.concat(parts)))[1]
    assert "The table holds 2 graphs; the first is drawn." in words
    assert "2 layers, 1 link." in words
