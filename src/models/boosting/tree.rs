//! A regression tree as a list of nodes, with its prediction and the contributions of the columns.

use serde::{Deserialize, Serialize};

/// A node of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Node {
    /// A leaf, which adds its value to the logit of a row that ends here.
    Leaf {
        /// The value in logits.
        value: f64,
        /// The sum of p (1 - p) over the training rows that ended here.
        cover: f64,
    },
    /// A split, from which a row continues to one of two children.
    Split {
        /// The index of the column that decides.
        column: usize,
        /// The threshold. A smaller value goes to the first child, any other value to the second.
        below: f64,
        /// The indices of the children among the nodes of the tree. Both are greater than the index of
        /// this node.
        children: [usize; 2],
        /// Whether a missing value goes to the first child.
        missing_is_below: bool,
        /// The sum of p (1 - p) over the training rows that reached this node.
        cover: f64,
    },
}

impl Node {
    fn cover(&self) -> f64 {
        match self {
            Self::Leaf { cover, .. } | Self::Split { cover, .. } => *cover,
        }
    }
}

/// A tree. The root is the first node, and every child comes after its parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Node>", into = "Vec<Node>")]
pub struct Tree {
    nodes: Vec<Node>,
    /// The number of splits on the longest path from the root to a leaf.
    depth: usize,
}

impl From<Tree> for Vec<Node> {
    fn from(tree: Tree) -> Self {
        tree.nodes
    }
}

impl TryFrom<Vec<Node>> for Tree {
    type Error = String;

    fn try_from(nodes: Vec<Node>) -> Result<Self, String> {
        let mut depths = vec![0; nodes.len()];
        if nodes.is_empty() {
            return Err("a tree has no nodes".into());
        }
        for (place, node) in nodes.iter().enumerate() {
            let Node::Split { children, .. } = node else { continue };
            for child in children {
                // If every child comes after its parent, every path from the root ends.
                if *child <= place || *child >= nodes.len() {
                    return Err(format!("the node {place} of a tree has the child {child}"));
                }
                depths[*child] = depths[place] + 1;
            }
        }
        let depth = depths.into_iter().max().unwrap_or(0);
        Ok(Self { nodes, depth })
    }
}

impl Tree {
    /// The nodes of the tree, with the root first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The greatest index of a column that a split uses; `None` without a split.
    pub fn last_column(&self) -> Option<usize> {
        let column = |node: &Node| match node {
            Node::Split { column, .. } => Some(*column),
            Node::Leaf { .. } => None,
        };
        self.nodes.iter().filter_map(column).max()
    }

    /// Computes what the tree adds to the logit of a row.
    pub fn value(&self, row: &[f64]) -> f64 {
        let mut place = 0;
        loop {
            match &self.nodes[place] {
                Node::Leaf { value, .. } => return *value,
                Node::Split { column, below, children, missing_is_below, .. } => {
                    place = children[next(row[*column], *below, *missing_is_below)];
                }
            }
        }
    }

    /// Adds the Shapley values of the tree's prediction for a row to `contributions`, which has one value
    /// per column.
    ///
    /// The Shapley value of a column is the change in the prediction when its value becomes known,
    /// averaged over all orders in which the columns become known. While a column is unknown, both
    /// children count by their cover (Lundberg et al. 2018, "Consistent individualized feature
    /// attribution for tree ensembles", algorithm 2).
    pub fn add_contributions(&self, row: &[f64], path: &mut Path, contributions: &mut [f64]) {
        path.0.clear();
        path.0.resize((self.depth + 2) * (self.depth + 3) / 2, Step::default());
        let start = Step { column: usize::MAX, without: 1.0, with: 1.0, weight: 0.0 };
        let mut walk = Walk { tree: self, row, contributions };
        walk.node(0, &mut path.0, 0, start);
    }
}

/// Chooses the child that a value goes to.
fn next(value: f64, below: f64, missing_is_below: bool) -> usize {
    let is_first = if value.is_nan() { missing_is_below } else { value < below };
    usize::from(!is_first)
}

/// A buffer for the paths from the root to the current node. It is used again for every row and tree.
#[derive(Debug, Default)]
pub struct Path(Vec<Step>);

/// A column on the path from the root.
#[derive(Debug, Clone, Copy, Default)]
struct Step {
    column: usize,
    /// The share of rows that follow this path while the column is unknown.
    without: f64,
    /// 1 if the row follows this path when the column is known, else 0.
    with: f64,
    /// The weight of the subsets of columns of each size.
    weight: f64,
}

struct Walk<'a> {
    tree: &'a Tree,
    row: &'a [f64],
    contributions: &'a mut [f64],
}

impl Walk<'_> {
    /// Visits a node. `room` begins with the `length` steps of the path so far, and `step` is added to
    /// them.
    fn node(&mut self, place: usize, room: &mut [Step], length: usize, step: Step) {
        extend(room, length, step);
        let path = &room[..=length];
        match self.tree.nodes[place] {
            Node::Leaf { value, .. } => {
                for (at, step) in path.iter().enumerate().skip(1) {
                    let weight = unwound(path, at);
                    self.contributions[step.column] += weight * (step.with - step.without) * value;
                }
            }
            Node::Split { column, below, children, missing_is_below, cover } => {
                let hot = next(self.row[column], below, missing_is_below);
                let (mut without, mut with, mut length) = (1.0, 1.0, length + 1);
                if let Some(at) = path.iter().position(|step| step.column == column) {
                    (without, with) = (path[at].without, path[at].with);
                    unwind(&mut room[..length], at);
                    length -= 1;
                }
                for (side, child) in children.into_iter().enumerate() {
                    let share = self.tree.nodes[child].cover() / cover;
                    let with = if side == hot { with } else { 0.0 };
                    let step = Step { column, without: share * without, with, weight: 0.0 };
                    // Each child gets a copy of the path, because the descent changes it.
                    let (own, rest) = room.split_at_mut(length);
                    rest[..length].copy_from_slice(own);
                    self.node(child, rest, length, step);
                }
            }
        }
    }
}

/// Puts a step after the first `length` steps.
fn extend(room: &mut [Step], length: usize, step: Step) {
    let weight = if length == 0 { 1.0 } else { 0.0 };
    room[length] = Step { weight, ..step };
    let all = (length + 1) as f64;
    for i in (0..length).rev() {
        room[i + 1].weight += step.with * room[i].weight * (i + 1) as f64 / all;
        room[i].weight = step.without * room[i].weight * (length - i) as f64 / all;
    }
}

/// Removes the step at index `at` from the path, which becomes one step shorter.
fn unwind(path: &mut [Step], at: usize) {
    let last = path.len() - 1;
    let (with, without, all) = (path[at].with, path[at].without, (last + 1) as f64);
    let mut following = path[last].weight;
    for i in (0..last).rev() {
        if with == 0.0 {
            path[i].weight = path[i].weight * all / (without * (last - i) as f64);
        } else {
            let own = path[i].weight;
            path[i].weight = following * all / ((i + 1) as f64 * with);
            following = own - path[i].weight * without * (last - i) as f64 / all;
        }
    }
    for i in at..last {
        path[i] = Step { weight: path[i].weight, ..path[i + 1] };
    }
}

/// Computes the sum of the weights of a path without the step at index `at`.
fn unwound(path: &[Step], at: usize) -> f64 {
    let last = path.len() - 1;
    let (with, without, all) = (path[at].with, path[at].without, (last + 1) as f64);
    let mut following = path[last].weight;
    let mut sum = 0.0;
    for i in (0..last).rev() {
        if with == 0.0 {
            sum += path[i].weight * all / (without * (last - i) as f64);
        } else {
            let weight = following * all / ((i + 1) as f64 * with);
            sum += weight;
            following = path[i].weight - weight * without * (last - i) as f64 / all;
        }
    }
    sum
}
