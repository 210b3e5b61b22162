"""Layout of the wiring: boxes apart, lines that end where they should."""

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

from spectrank.report._graph import without_cycles
from spectrank.report._layout import ranks, spread
from spectrank.report._routes import draw


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
