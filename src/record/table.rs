//! Records by their keys, in the keys' order, in a tree whose copies share what is the same in both: a copy costs nothing, a
//! change to it one path of the tree, and where two copies differ is found without looking at what they share. Pure.
//!
//! ```text
//! branch: [key, child] [key, child] …      a key is a bound: what is below its child is not less, and the child's before it is
//! leaf:   [key, record] [key, record] …    up to WIDE of them, in one piece of memory
//! ```

use std::{borrow::Borrow, cmp::Ordering, fmt, mem, slice, sync::Arc};

/// Entries of one node, at most.
const WIDE: usize = 32;
/// A node with fewer is joined with one beside it, where that has room.
const NARROW: usize = WIDE / 4;

type Rows<K, R> = Vec<(K, Arc<R>)>;
type Children<K, R> = Vec<(K, Arc<Node<K, R>>)>;

enum Node<K, R: ?Sized> {
    Leaf(Rows<K, R>),
    /// The first key is no bound: what is less than all is put there.
    Branch(Children<K, R>),
}

impl<K: Clone, R: ?Sized> Clone for Node<K, R> {
    fn clone(&self) -> Self {
        match self {
            Node::Leaf(rows) => Node::Leaf(rows.clone()),
            Node::Branch(children) => Node::Branch(children.clone()),
        }
    }
}

impl<K, R: ?Sized> Node<K, R> {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(rows) => rows.len(),
            Node::Branch(children) => children.len(),
        }
    }

    /// Of branches above leaves.
    fn height(&self) -> usize {
        match self {
            Node::Leaf(_) => 0,
            Node::Branch(children) => 1 + children.first().map_or(0, |(_, child)| child.height()),
        }
    }
}

/// The table. Readers have it as it was when they took their copy.
pub struct Table<K, R: ?Sized> {
    root: Arc<Node<K, R>>,
    len: usize,
}

/// The child that a key is below; `order` compares a key of the table with it.
fn child<K, T>(children: &[(K, T)], order: impl Fn(&K) -> Ordering) -> usize {
    let bounds = children.get(1..).unwrap_or_default();
    bounds.partition_point(|(key, _)| order(key) != Ordering::Greater)
}

fn insert<T>(all: &mut Vec<T>, at: usize, one: T) {
    // One at a time: room for more would stay empty.
    all.reserve_exact(1);
    all.insert(at, one);
}

/// Splits what is too wide by the one that was put in at `at`. What grows at its end stays full: keys often come in their order.
fn split<K: Clone, T>(all: &mut Vec<(K, T)>, at: usize) -> Option<(K, Vec<(K, T)>)> {
    if all.len() <= WIDE {
        return None;
    }
    let middle = if at + 1 == all.len() { at } else { all.len() / 2 };
    let right = all.split_off(middle);
    all.shrink_to_fit();
    Some((right.first()?.0.clone(), right))
}

/// Puts a row in; the one that was there, and what came out on the right where the node was full.
#[allow(clippy::type_complexity)]
fn put<K: Ord + Clone, R: ?Sized>(
    node: &mut Arc<Node<K, R>>,
    key: K,
    row: Arc<R>,
) -> (Option<Arc<R>>, Option<(K, Arc<Node<K, R>>)>) {
    match Arc::make_mut(node) {
        Node::Leaf(rows) => match rows.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(at) => (Some(mem::replace(&mut rows[at].1, row)), None),
            Err(at) => {
                insert(rows, at, (key, row));
                let right = split(rows, at).map(|(key, right)| (key, Arc::new(Node::Leaf(right))));
                (None, right)
            }
        },
        Node::Branch(children) => {
            let at = child(children, |k| k.cmp(&key));
            let (before, more) = put(&mut children[at].1, key, row);
            let Some(more) = more else { return (before, None) };
            insert(children, at + 1, more);
            let right = split(children, at + 1).map(|(key, right)| (key, Arc::new(Node::Branch(right))));
            (before, right)
        }
    }
}

/// Takes a row out that is there.
fn take<K, R: ?Sized, Q>(node: &mut Arc<Node<K, R>>, key: &Q) -> Option<Arc<R>>
where
    K: Borrow<Q> + Ord + Clone,
    Q: Ord + ?Sized,
{
    match Arc::make_mut(node) {
        Node::Leaf(rows) => {
            let at = rows.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
            Some(rows.remove(at).1)
        }
        Node::Branch(children) => {
            let at = child(children, |k| k.borrow().cmp(key));
            let row = take(&mut children.get_mut(at)?.1, key)?;
            narrowed(children, at);
            Some(row)
        }
    }
}

/// Joins a child that has become narrow with one beside it, where that has room; drops one that is empty.
fn narrowed<K: Clone, R: ?Sized>(children: &mut Children<K, R>, at: usize) {
    let len = |at: usize| children.get(at).map_or(WIDE, |(_, child)| child.len());
    let own = len(at);
    if own >= NARROW {
        return;
    }
    let left = match at.checked_sub(1) {
        _ if own == 0 => return drop(children.remove(at)),
        Some(before) if own + len(before) <= WIDE => before,
        _ if own + len(at + 1) <= WIDE => at,
        _ => return,
    };
    let (bound, right) = children.remove(left + 1);
    match (Arc::make_mut(&mut children[left].1), &*right) {
        (Node::Leaf(rows), Node::Leaf(more)) => rows.extend_from_slice(more),
        (Node::Branch(below), Node::Branch(more)) => {
            let first = below.len();
            below.extend_from_slice(more);
            // It becomes a bound.
            below[first].0 = bound;
        }
        // All leaves are equally deep.
        _ => children.insert(left + 1, (bound, right)),
    }
}

impl<K: Ord + Clone, R: ?Sized> Table<K, R> {
    /// Puts a record in, in place of the one that has its key; that one.
    pub fn insert(&mut self, key: K, row: impl Into<Arc<R>>) -> Option<Arc<R>> {
        let (before, right) = put(&mut self.root, key, row.into());
        if let Some(right) = right {
            // The first key is no bound, and so may be any.
            let first = right.0.clone();
            let left = mem::replace(&mut self.root, Arc::new(Node::Leaf(Vec::new())));
            self.root = Arc::new(Node::Branch(vec![(first, left), right]));
        }
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes a record out.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<Arc<R>>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        // What is not there copies nothing.
        self.get(key)?;
        let row = take(&mut self.root, key)?;
        self.len -= 1;
        while let Node::Branch(children) = &*self.root
            && children.len() < 2
        {
            let only = children.first().map(|(_, child)| Arc::clone(child));
            self.root = only.unwrap_or_else(|| Arc::new(Node::Leaf(Vec::new())));
        }
        Some(row)
    }
}

impl<K, R: ?Sized> Table<K, R> {
    /// The record for which `order` says that its key is the one.
    fn entry(&self, order: impl Fn(&K) -> Ordering) -> Option<(&K, &Arc<R>)> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Branch(children) => node = &children.get(child(children, &order))?.1,
                Node::Leaf(rows) => {
                    let (key, row) = &rows[rows.binary_search_by(|(k, _)| order(k)).ok()?];
                    return Some((key, row));
                }
            }
        }
    }

    /// The record whose key compares as equal: `order` compares a key of the table with the one that is sought.
    pub fn find(&self, order: impl Fn(&K) -> Ordering) -> Option<&R> {
        self.entry(order).map(|(_, row)| &**row)
    }

    /// The record of a key, with the key as the table has it.
    pub fn get_key_value<Q>(&self, key: &Q) -> Option<(&K, &R)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.entry(|k| k.borrow().cmp(key)).map(|(key, row)| (key, &**row))
    }

    /// The record of a key.
    pub fn get<Q>(&self, key: &Q) -> Option<&R>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.get_key_value(key).map(|(_, row)| row)
    }

    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.get(key).is_some()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All, in the keys' order.
    pub fn iter(&self) -> Iter<'_, K, R> {
        self.behind(|_| false)
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &R> {
        self.iter().map(|(_, row)| row)
    }

    /// Those that are left without the first ones, of whose keys `before` says so.
    pub fn behind(&self, before: impl Fn(&K) -> bool) -> Iter<'_, K, R> {
        let (mut above, mut node) = (Vec::new(), &*self.root);
        loop {
            match node {
                Node::Leaf(rows) => {
                    let rows = rows[rows.partition_point(|(k, _)| before(k))..].iter();
                    return Iter { above, rows };
                }
                Node::Branch(children) => {
                    let at = child(children, |k| match before(k) {
                        true => Ordering::Less,
                        false => Ordering::Greater,
                    });
                    let mut rest = children[at..].iter();
                    let Some((_, first)) = rest.next() else {
                        let rows = [].iter();
                        return Iter { above, rows };
                    };
                    above.push(rest);
                    node = first;
                }
            }
        }
    }
}

/// A key, and its record before and after.
pub type Differing<'a, K, R> = (&'a K, Option<&'a R>, Option<&'a R>);

/// What is still to be compared.
enum Ahead<'a, K, R: ?Sized> {
    Node(&'a Arc<Node<K, R>>),
    Row(&'a K, &'a Arc<R>),
}

fn opened<'a, K, R: ?Sized>(ahead: &mut Vec<Ahead<'a, K, R>>, node: &'a Node<K, R>) {
    match node {
        Node::Leaf(rows) => ahead.extend(rows.iter().rev().map(|(key, row)| Ahead::Row(key, row))),
        Node::Branch(children) => ahead.extend(children.iter().rev().map(|(_, child)| Ahead::Node(child))),
    }
}

impl<K: Ord, R: ?Sized> Table<K, R> {
    /// Where a later copy differs, in the order of the keys. A record that was put in once more counts, be it the same or not.
    pub fn differing<'a>(&'a self, later: &'a Self) -> Vec<Differing<'a, K, R>> {
        let (mut old, mut new) = (vec![Ahead::Node(&self.root)], vec![Ahead::Node(&later.root)]);
        let mut all = Vec::new();
        loop {
            match (old.pop(), new.pop()) {
                (None, None) => return all,
                (Some(Ahead::Node(a)), Some(Ahead::Node(b))) => {
                    if Arc::ptr_eq(a, b) {
                        continue;
                    }
                    // What is as high may be the same below.
                    let order = a.height().cmp(&b.height());
                    match order {
                        Ordering::Less => old.push(Ahead::Node(a)),
                        Ordering::Equal | Ordering::Greater => opened(&mut old, a),
                    }
                    match order {
                        Ordering::Greater => new.push(Ahead::Node(b)),
                        Ordering::Equal | Ordering::Less => opened(&mut new, b),
                    }
                }
                (Some(Ahead::Node(a)), other) => {
                    opened(&mut old, a);
                    new.extend(other);
                }
                (other, Some(Ahead::Node(b))) => {
                    opened(&mut new, b);
                    old.extend(other);
                }
                (Some(Ahead::Row(key, was)), None) => all.push((key, Some(&**was), None)),
                (None, Some(Ahead::Row(key, is))) => all.push((key, None, Some(&**is))),
                (Some(Ahead::Row(a, was)), Some(Ahead::Row(b, is))) => match a.cmp(b) {
                    Ordering::Less => {
                        all.push((a, Some(&**was), None));
                        new.push(Ahead::Row(b, is));
                    }
                    Ordering::Greater => {
                        all.push((b, None, Some(&**is)));
                        old.push(Ahead::Row(a, was));
                    }
                    Ordering::Equal if Arc::ptr_eq(was, is) => {}
                    Ordering::Equal => all.push((a, Some(&**was), Some(&**is))),
                },
            }
        }
    }
}

type Siblings<'a, K, R> = slice::Iter<'a, (K, Arc<Node<K, R>>)>;

/// Records with their keys, in the keys' order.
pub struct Iter<'a, K, R: ?Sized> {
    above: Vec<Siblings<'a, K, R>>,
    rows: slice::Iter<'a, (K, Arc<R>)>,
}

impl<'a, K, R: ?Sized> Iterator for Iter<'a, K, R> {
    type Item = (&'a K, &'a R);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, row)) = self.rows.next() {
                return Some((key, &**row));
            }
            match self.above.last_mut()?.next() {
                None => drop(self.above.pop()),
                Some((_, node)) => match &**node {
                    Node::Leaf(rows) => self.rows = rows.iter(),
                    Node::Branch(children) => self.above.push(children.iter()),
                },
            }
        }
    }
}

impl<'a, K, R: ?Sized> IntoIterator for &'a Table<K, R> {
    type Item = (&'a K, &'a R);
    type IntoIter = Iter<'a, K, R>;

    fn into_iter(self) -> Iter<'a, K, R> {
        self.iter()
    }
}

impl<K: Ord + Clone, R, I: Into<Arc<R>>> FromIterator<(K, I)> for Table<K, R> {
    fn from_iter<T: IntoIterator<Item = (K, I)>>(all: T) -> Self {
        let mut table = Self::default();
        for (key, row) in all {
            table.insert(key, row);
        }
        table
    }
}

impl<K, R: ?Sized> Default for Table<K, R> {
    fn default() -> Self {
        let root = Arc::new(Node::Leaf(Vec::new()));
        Self { root, len: 0 }
    }
}

impl<K, R: ?Sized> Clone for Table<K, R> {
    fn clone(&self) -> Self {
        let root = Arc::clone(&self.root);
        Self { root, len: self.len }
    }
}

impl<K: PartialEq, R: PartialEq + ?Sized> PartialEq for Table<K, R> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root) || (self.len == other.len && self.iter().eq(other))
    }
}

impl<K: Eq, R: Eq + ?Sized> Eq for Table<K, R> {}

impl<K: fmt::Debug, R: fmt::Debug + ?Sized> fmt::Debug for Table<K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Numbers = Table<u16, u32>;

    /// Looks whether a node is as it shall be: its keys within these bounds, all leaves equally deep. How many rows it has.
    fn sound(node: &Node<u16, u32>, from: Option<u16>, to: Option<u16>) -> usize {
        let within = |k: u16| from.is_none_or(|from| from <= k) && to.is_none_or(|to| k < to);
        match node {
            Node::Leaf(rows) => {
                assert!(rows.len() <= WIDE && rows.is_sorted_by(|a, b| a.0 < b.0));
                assert!(rows.iter().all(|(k, _)| within(*k)), "{from:?} {to:?}");
                rows.len()
            }
            Node::Branch(children) => {
                assert!((1..=WIDE).contains(&children.len()));
                let height = children[0].1.height();
                let one = |at: usize| {
                    let bound = |at: usize| children.get(at).map(|(k, _)| *k);
                    let child = &children[at].1;
                    assert!(child.height() == height && child.len() > 0);
                    let from = if at == 0 { from } else { bound(at) };
                    sound(child, from, bound(at + 1).or(to))
                };
                (0..children.len()).map(one).sum()
            }
        }
    }

    /// What is done to a table: a key put in (with a value) or taken out; what is put in in one go has keys one behind the other.
    fn changes() -> impl Strategy<Value = Vec<(u16, Option<u32>)>> {
        let one = (0u16..2000, proptest::option::weighted(0.6, any::<u32>())).prop_map(|one| vec![one]);
        let run = (0u16..1500, 1u16..120, any::<bool>()).prop_map(|(first, n, put)| {
            let keys = first..first + n;
            keys.map(|k| (k, put.then_some(u32::from(k)))).collect::<Vec<_>>()
        });
        proptest::collection::vec(prop_oneof![one, run], 0..40).prop_map(|all| all.concat())
    }

    fn make(table: &mut Numbers, model: &mut BTreeMap<u16, u32>, changes: &[(u16, Option<u32>)]) {
        for (key, value) in changes {
            match value {
                Some(value) => assert_eq!(
                    table.insert(*key, *value).as_deref(),
                    model.insert(*key, *value).as_ref()
                ),
                None => assert_eq!(table.remove(key).as_deref(), model.remove(key).as_ref()),
            }
        }
    }

    proptest! {
        /// A table holds what a map would, in its order; a copy of it stays as it was; and where both differ is what differs in
        /// the maps.
        #[test]
        fn a_table_is_a_map_and_its_copies_stay(first in changes(), then in changes(), at in 0u16..2100) {
            let (mut table, mut model) = (Numbers::default(), BTreeMap::new());
            make(&mut table, &mut model, &first);
            let (before, model_before) = (table.clone(), model.clone());
            make(&mut table, &mut model, &then);
            for (table, model) in [(&before, &model_before), (&table, &model)] {
                prop_assert_eq!(sound(&table.root, None, None), model.len());
                prop_assert_eq!(table.len(), model.len());
                prop_assert!(table.iter().eq(model));
                prop_assert_eq!(table.get(&at), model.get(&at));
                prop_assert!(table.behind(|k| *k < at).eq(model.range(at..)));
            }
            let mut differ = Vec::new();
            for key in model.keys().chain(model_before.keys()).collect::<std::collections::BTreeSet<_>>() {
                let (was, is) = (model_before.get(key), model.get(key));
                if was != is {
                    differ.push((key, was, is));
                }
            }
            let found = before.differing(&table).into_iter().filter(|(_, was, is)| was != is);
            prop_assert_eq!(found.collect::<Vec<_>>(), differ);
        }
    }

    #[test]
    fn what_two_copies_share_is_not_looked_at() {
        let mut table: Numbers = (0..50_000).map(|n| (n, u32::from(n))).collect();
        let before = table.clone();
        for key in [7, 20_000, 49_999] {
            table.insert(key, 1);
        }
        table.remove(&30_000);
        let keys: Vec<u16> = before.differing(&table).iter().map(|(key, ..)| **key).collect();
        assert_eq!(keys, [7, 20_000, 30_000, 49_999]);
        let own = |node: &Arc<Node<u16, u32>>| Arc::strong_count(node) == 1;
        fn count(node: &Arc<Node<u16, u32>>, which: &impl Fn(&Arc<Node<u16, u32>>) -> bool) -> usize {
            match &**node {
                Node::Branch(children) if which(node) => {
                    1 + children.iter().map(|(_, c)| count(c, which)).sum::<usize>()
                }
                _ => usize::from(which(node)),
            }
        }
        let height = table.root.height();
        assert!(count(&table.root, &own) <= 4 * (height + 1), "a path for each change");
        assert!(height <= 3, "full, where keys came in their order: {height}");
    }
}
