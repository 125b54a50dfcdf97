//! Attention, head by head: pairs and heads to compare.

use super::blocks::Whole;
use super::inputs::config_value;
use super::pairs::Builder;
use super::role::HeadsOf;
use super::{
    Between, BiasView, HeadLayout, HeadSet, Law, Operand, Pair, PairName, PairRule, Role, Span,
    Spans,
};

use serde_json::Value;

/// Projections whose heads are compared.
const COMPARED: [Role; 8] = [
    Role::Query,
    Role::Key,
    Role::Value,
    Role::Output,
    Role::CrossQuery,
    Role::CrossKey,
    Role::CrossValue,
    Role::CrossOutput,
];

/// How the rows of a head stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    AsStored,
    /// Even rows before odd ones, so that the two that a position rotates stand half a head apart.
    EvenFirst,
}

/// One side of the pairs of a layer: a matrix that is cut into `n` heads.
struct Cut<'a> {
    whole: &'a Whole,
    n: usize,
    order: Order,
    of_columns: bool,
}

impl<'a> Cut<'a> {
    fn new(whole: &'a Whole, role: Role, heads: HeadLayout) -> Option<Self> {
        let n = match role.heads()? {
            HeadsOf::Queries => heads.query,
            HeadsOf::KeyValues => heads.key_value,
        };
        let of_columns = matches!(role, Role::Output | Role::CrossOutput);
        let cut = Self { whole, n, order: Order::AsStored, of_columns };
        (cut.rows().is_multiple_of(n) && cut.rows() >= n).then_some(cut)
    }

    /// What the heads share out.
    fn rows(&self) -> usize {
        if self.of_columns { self.whole.view.n_cols() } else { self.whole.view.n_rows() }
    }

    fn dim(&self) -> usize {
        self.rows() / self.n
    }

    fn rows_of(&self, head: usize) -> Spans {
        let (start, dim) = (head * self.dim(), self.dim());
        match self.order {
            Order::AsStored => (start..start + dim).into(),
            Order::EvenFirst => vec![
                Span { start, len: dim.div_ceil(2), step: 2 },
                Span { start: start + 1, len: dim / 2, step: 2 },
            ]
            .into(),
        }
    }

    fn view(&self, head: usize) -> super::View {
        if self.of_columns {
            let start = head * self.dim();
            self.whole.view.with_cols(start..start + self.dim())
        } else {
            self.whole.view.with_rows(&self.rows_of(head))
        }
    }

    fn bias(&self, head: usize) -> Option<BiasView> {
        self.whole.bias.as_deref().map(|bias| bias.with_rows(&self.rows_of(head)))
    }

    /// A head as a writer, with its bias: f is invariant under W → gW, b → g b on one side and g⁻¹
    /// on the other, so the conserved Gram holds the bias as one more column.
    fn writes(&self, head: usize) -> Operand {
        let label = format!("{}[{head}]", self.whole.name);
        Operand::new(label, self.view(head)).with_bias(self.bias(head))
    }
}

/// One pair a query head and, where heads share keys and values, one a group.
fn per_head(
    name: PairName,
    layer: usize,
    between: Between,
    (writer, reader): (&Cut<'_>, &Cut<'_>),
    transposed: bool,
    pairs: &mut Vec<Pair>,
) {
    if writer.dim() != reader.dim() || !reader.n.is_multiple_of(writer.n) {
        return;
    }
    let per_group = reader.n / writer.n;
    let base = |writes: Operand, mut reads: Operand| {
        reads.transposed = transposed;
        Pair { layer: Some(layer), ..Pair::new(name, writes, reads, between) }
    };
    let read_by = &reader.whole.name;
    for h in 0..reader.n {
        let reads = Operand::new(format!("{read_by}[{h}]"), reader.view(h));
        let mut pair = base(writer.writes(h / per_group), reads);
        pair.head = Some(h);
        if per_group > 1 {
            pair.law = Law::None;
        }
        pairs.push(pair);
    }
    if per_group == 1 {
        return;
    }
    for g in 0..writer.n {
        let members = g * per_group..(g + 1) * per_group;
        let label = format!("{read_by}[{}..{}]", members.start, members.end);
        let reads = Operand::stacked(label, members.map(|h| reader.view(h).into()).collect());
        let mut pair = base(writer.writes(g), reads);
        pair.group = Some(g);
        pairs.push(pair);
    }
}

impl Builder<'_> {
    pub(super) fn value_output(&self, rule: &PairRule, layer: usize, pairs: &mut Vec<Pair>) {
        let (value, output) = match rule.pair {
            PairName::ValueOutput => (Role::Value, Role::Output),
            _ => (Role::CrossValue, Role::CrossOutput),
        };
        let Some((v, o)) = self.cut(layer, value).zip(self.cut(layer, output)) else { return };
        let between = self.between(rule, &v.whole.place);
        per_head(rule.pair, layer, between, (&v, &o), false, pairs);
    }

    pub(super) fn query_key(&self, rule: &PairRule, layer: usize, pairs: &mut Vec<Pair>) {
        let (key, query) = match rule.pair {
            PairName::QueryKey => (Role::Key, Role::Query),
            _ => (Role::CrossKey, Role::CrossQuery),
        };
        let Some((mut k, mut q)) = self.cut(layer, key).zip(self.cut(layer, query)) else {
            return;
        };
        let between = self.between(rule, &k.whole.place);
        if between == Between::RotaryInterleaved {
            (k.order, q.order) = (Order::EvenFirst, Order::EvenFirst);
        }
        let before = pairs.len();
        per_head(rule.pair, layer, between, (&k, &q), true, pairs);
        for pair in &mut pairs[before..] {
            pair.law_gap = !(between.law() == Law::Rotary && self.rotates_partly());
            let per_group = q.n / k.n;
            let members = match (pair.head, pair.group) {
                (Some(h), _) => h..h + 1,
                (None, Some(g)) => g * per_group..(g + 1) * per_group,
                (None, None) => 0..0,
            };
            pair.reader.bias = members.filter_map(|h| q.bias(h)).collect();
        }
    }

    fn cut(&self, layer: usize, role: Role) -> Option<Cut<'_>> {
        Cut::new(self.whole(Some(layer), role)?, role, self.heads?)
    }

    /// Whether positions rotate a part of each head only; then the law's pairs of coordinates are
    /// not those of the whole head, and its gap is not measured.
    fn rotates_partly(&self) -> bool {
        let keys = ["partial_rotary_factor", "rotary_pct", "rotary_percentage"].map(str::to_owned);
        let nested = self.config.and_then(|c| c.get("rope_parameters"));
        let stated = config_value(self.config, &keys).or_else(|| config_value(nested, &keys));
        stated.and_then(Value::as_f64).is_some_and(|part| part < 1.0)
    }

    pub(super) fn head_sets(&self) -> impl Iterator<Item = HeadSet> {
        let set = move |layer, projection| {
            let cut = self.cut(layer, projection)?;
            let heads = (0..cut.n).map(|h| cut.view(h)).collect();
            Some(HeadSet { layer, projection, heads })
        };
        let layers = (0..self.depth).flat_map(|l| COMPARED.map(|projection| (l, projection)));
        layers.filter_map(move |(layer, projection)| set(layer, projection))
    }
}
