"""The wiring: joints found again, boxes apart, lines that end where they should."""

import itertools
import random
import re
from collections import Counter

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from spectrank.report import _flow as flow_module
from spectrank.report import _wiring as wiring_module
from spectrank.report import render_html
from spectrank.report._flow import flow
from spectrank.report._graph import read_graph, without_cycles
from spectrank.report._layout import ranks, spread
from spectrank.report._routes import draw

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


# Layout


def _random_arrows(seed):
    rng = random.Random(seed)
    num = rng.randint(1, 30)
    # Without a chain many stand beside each other.
    chain, chance = seed % 2 == 0, rng.choice([0.05, 0.15, 0.4])
    return num, [
        (a, b)
        for a, b in itertools.combinations(range(num), 2)
        if (chain and b == a + 1) or rng.random() < chance
    ]


def _drawn(seed):
    rng = random.Random(seed)
    num, arrows = _random_arrows(seed)
    sizes = [
        rng.choice([(170.0, 46.0), (170.0, 63.0), (60.0, 20.0), (20.0, 20.0)])
        for _ in range(num)
    ]
    joints = frozenset(at for at, size in enumerate(sizes) if size == (20.0, 20.0))
    return arrows, sizes, draw(sizes, arrows, joints)


def _points(path):
    """Points along a path, finely, from its text alone."""
    x = y = 0.0
    points = []
    for command, text in re.findall(r"([MVHCQ])([^MVHCQ]*)", path):
        numbers = [float(number) for number in text.split()]
        if command in "MVH":
            end = {"M": numbers, "V": [x, *numbers], "H": [*numbers, y]}[command]
            start = (x, y) if command != "M" else end
            controls = [start, end]
        else:
            pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
            controls = [(x, y), *pairs]
        degree = len(controls) - 1
        for k in range(41):
            t = k / 40
            binomials = [1, degree, degree, 1] if degree == 3 else [1, 2, 1]
            if degree == 1:
                binomials = [1, 1]
            points.append(
                tuple(
                    sum(
                        c * t**j * (1 - t) ** (degree - j) * control[axis]
                        for j, (c, control) in enumerate(
                            zip(binomials, controls, strict=True)
                        )
                    )
                    for axis in (0, 1)
                )
            )
        x, y = controls[-1]
    return points


@pytest.mark.parametrize("seed", range(16))
def test_no_two_boxes_overlap_and_all_stand_inside(seed):
    _, sizes, drawing = _drawn(seed)
    for box, size in zip(drawing.boxes, sizes, strict=True):
        assert (box.width, box.height) == size
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + box.width <= drawing.width
        assert box.y + box.height <= drawing.height
    for one, other in itertools.combinations(drawing.boxes, 2):
        beside = one.x + one.width <= other.x or other.x + other.width <= one.x
        above = one.y + one.height <= other.y or other.y + other.height <= one.y
        assert beside or above


@pytest.mark.parametrize("seed", range(16))
def test_every_arrow_runs_down_from_its_tail_to_its_head_and_touches_no_other(seed):
    arrows, _, drawing = _drawn(seed)
    for (tail, head), route in zip(arrows, drawing.routes, strict=True):
        one, other = drawing.boxes[tail], drawing.boxes[head]
        assert one.y + one.height < other.y
        points = _points(route.path)
        (x0, y0), (x1, y1) = points[0], points[-1]
        assert one.x - 0.06 <= x0 <= one.x + one.width + 0.06
        assert y0 == pytest.approx(one.y + one.height, abs=0.06)
        top = y1 == pytest.approx(other.y, abs=0.06)
        if top:
            assert other.x - 0.06 <= x1 <= other.x + other.width + 0.06
        else:
            sides = [other.x, other.x + other.width]
            assert min(abs(x1 - side) for side in sides) < 0.06
            assert other.y <= y1 <= other.y + other.height
        for at, box in enumerate(drawing.boxes):
            inside = [
                (x, y)
                for x, y in points
                if box.x + 0.1 < x < box.x + box.width - 0.1
                and box.y + 0.1 < y < box.y + box.height - 0.1
            ]
            assert not inside, (at, tail, head)
        for x, y in points:
            assert 0 <= x <= drawing.width
            assert 0 <= y <= drawing.height


def _bands(drawing):
    """Top and bottom of every rank."""
    bands = {}
    for box in drawing.boxes:
        top, bottom = bands.get(box.rank, (box.y, box.y))
        bands[box.rank] = min(top, box.y), max(bottom, box.y + box.height)
    return bands.values()


@pytest.mark.parametrize("seed", range(16))
def test_lines_bend_in_the_gaps_between_ranks_only(seed):
    _, _, drawing = _drawn(seed)
    for route in drawing.routes:
        upright = [route.start[0], route.end[0], route.lane]
        for x, y in _points(route.path.partition("Q")[0]):
            if all(at is None or abs(x - at) > 0.1 for at in upright):
                assert not any(t + 0.1 < y < b - 0.1 for t, b in _bands(drawing))


@pytest.mark.parametrize("seed", range(16))
def test_a_box_alone_on_its_rank_stands_in_the_middle_below_what_leads_to_it(seed):
    arrows, _, drawing = _drawn(seed)
    ranked = Counter(box.rank for box in drawing.boxes)
    for at, box in enumerate(drawing.boxes):
        above = [
            drawing.boxes[tail]
            for tail, head in arrows
            if head == at and drawing.boxes[tail].rank == box.rank - 1
        ]
        if ranked[box.rank] == 1 and above:
            mean = sum(other.x + other.width / 2 for other in above) / len(above)
            assert box.x + box.width / 2 == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("seed", range(16))
def test_lanes_beside_each_other_keep_their_distance(seed):
    arrows, _, drawing = _drawn(seed)
    over = []
    for (tail, head), route in zip(arrows, drawing.routes, strict=True):
        rank = [drawing.boxes[v].rank for v in (tail, head)]
        assert (route.lane is not None) == (rank[1] - rank[0] > 1)
        if route.lane is not None:
            over.append((rank, route.lane))
    for (one, x), (other, y) in itertools.combinations(over, 2):
        if max(one[0], other[0]) < min(one[1], other[1]) - 1:
            assert abs(x - y) > 12.9


@pytest.mark.parametrize("seed", range(16))
def test_a_rank_is_the_longest_way_to_a_vertex(seed):
    num, arrows = _random_arrows(seed)
    arrows = [(a, b) for a, b in arrows if (a + b) % 7]
    graph = nx.DiGraph(arrows)
    graph.add_nodes_from(range(num))
    found = ranks(num, arrows)
    longest: dict[int, int] = {}
    for vertex in nx.topological_sort(graph):
        longest[vertex] = max(
            (longest[tail] + 1 for tail in graph.predecessors(vertex)), default=0
        )
    loose = [v for v in graph if not graph.degree(v)]
    top = max((found[v] for v in graph if graph.degree(v)), default=-1)
    for vertex in graph:
        if vertex in loose:
            assert found[vertex] > top
        elif graph.in_degree(vertex):
            assert found[vertex] == longest[vertex]
        else:
            # A start stands just above the first that it leads to.
            assert found[vertex] == min(found[v] for v in graph.successors(vertex)) - 1
    assert min(found) == 0


def test_a_chain_is_a_straight_line_and_a_skip_an_arc_beside_it():
    arrows = [(0, 1), (1, 2), (2, 3), (0, 3)]
    sizes = [(170.0, 46.0)] * 3 + [(20.0, 20.0)]
    drawing = draw(sizes, arrows, frozenset([3]))
    centres = [box.x + box.width / 2 for box in drawing.boxes]
    assert max(centres) - min(centres) < 0.01
    *chain, skip = drawing.routes
    assert all("C" not in route.path and "Q" not in route.path for route in chain)
    right = max(box.x + box.width for box in drawing.boxes)
    assert skip.lane is not None
    assert skip.lane > right
    joint = drawing.boxes[3]
    assert skip.end == (joint.x + joint.width, joint.y + joint.height / 2)
    # Without a joint it comes from above, like any other.
    plain = draw(sizes, arrows).routes[-1]
    assert plain.end[1] == draw(sizes, arrows).boxes[3].y


def test_a_chain_stays_straight_where_a_branch_pushes_it_aside():
    chain = [(k, k + 1) for k in range(9)]
    arrows = [*chain, (4, 10), (10, 11)]
    boxes = draw([(170.0, 46.0)] * 12, arrows).boxes
    for part in (range(5), range(5, 10), (10, 11)):
        centres = [boxes[at].x for at in part]
        assert max(centres) - min(centres) < 0.01
    assert boxes[10].x != boxes[5].x


POSITIONS = st.lists(st.tuples(st.floats(-900, 900), st.floats(20, 300)), min_size=1)


@given(POSITIONS)
@settings(max_examples=150, deadline=None)
def test_boxes_of_a_rank_stand_as_near_as_can_be_to_where_they_are_wanted(found):
    wanted, widths = map(list, zip(*found, strict=True))
    gaps = [(a + b) / 2 + 22.0 for a, b in itertools.pairwise(widths)]
    offsets = np.concatenate([[0.0], np.cumsum(gaps)])
    # Another library's isotonic regression on the positions less the room before.
    oracle = isotonic_regression(np.array(wanted) - offsets).x + offsets
    assert spread(wanted, widths) == pytest.approx(oracle.tolist(), abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
@settings(max_examples=150, deadline=None)
def test_what_is_left_of_a_graph_has_no_cycle_and_nothing_else_is_taken(arrows):
    kept, back = without_cycles(list(range(8)), arrows)
    assert sorted(kept + back) == list(range(len(arrows)))
    graph = nx.DiGraph([arrows[at] for at in kept])
    assert nx.is_directed_acyclic_graph(graph)
    for at in back:
        graph.add_nodes_from(arrows[at])
        assert nx.has_path(graph, arrows[at][1], arrows[at][0])


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
