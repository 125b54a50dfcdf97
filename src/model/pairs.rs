//! The pairs of a stack, layer by layer.

use serde_json::Value;

use super::blocks::{Found, Whole};
use super::inputs::{Tensors, config_value};
use super::names::{Place, fill};
use super::{Between, Gain, HeadLayout, Law, Left, Operand, Pair, PairName, PairRule, Role, Stack};

/// One stack with all that its pairs need.
pub(super) struct Builder<'a> {
    pub(super) stack: &'a Stack,
    pub(super) tensors: &'a Tensors<'a>,
    pub(super) config: Option<&'a Value>,
    pub(super) found: &'a Found,
    pub(super) heads: Option<HeadLayout>,
    /// Layers of the stack.
    pub(super) depth: usize,
}

/// Writer, reader and where the reader's name puts it.
type Two<'a> = (&'a Whole, Operand, Place);

impl<'a> Builder<'a> {
    /// The one matrix of a role.
    pub(super) fn whole(&self, layer: Option<usize>, role: Role) -> Option<&'a Whole> {
        self.found.get(&(layer, role, None))
    }

    /// All of a role in a layer, in order.
    fn all(&self, layer: Option<usize>, role: Role) -> impl DoubleEndedIterator<Item = &'a Whole> {
        let range = (layer, role, None)..=(layer, role, Some(usize::MAX));
        self.found.range(range).map(|(_, whole)| whole)
    }

    pub(super) fn pairs_of(
        &self,
        rule: &PairRule,
        layer: usize,
        pairs: &mut Vec<Pair>,
        skipped: &mut Vec<Left>,
    ) {
        if rule.when.as_deref().is_some_and(|flag| self.flag(flag) != Some(true)) {
            return;
        }
        if let Some(flag) = rule.unless.as_deref().filter(|flag| self.flag(flag) == Some(true)) {
            // No news where another rule joins the two instead.
            let is_only = self.stack.pairs.iter().filter(|p| p.pair == rule.pair).count() == 1;
            if layer == 0 && is_only {
                skipped.push(Left {
                    name: format!("({})", rule.pair.as_str()).into(),
                    reason: format!("not adjacent: `{flag}` is true in config.json").into(),
                });
            }
            return;
        }
        match rule.pair {
            PairName::ValueOutput | PairName::CrossValueOutput => {
                self.value_output(rule, layer, pairs);
            }
            PairName::QueryKey | PairName::CrossQueryKey => self.query_key(rule, layer, pairs),
            _ => {
                for two in self.operands(rule, layer) {
                    match self.joined(rule, layer, two) {
                        Ok(pair) => pairs.push(pair),
                        Err(reason) => {
                            let name = format!("{} layer {layer}", rule.pair.as_str());
                            skipped.push(Left { name: name.into(), reason: reason.into() });
                        }
                    }
                }
            }
        }
    }

    /// A boolean of the configuration, or with `!` its contrary.
    fn flag(&self, name: &str) -> Option<bool> {
        let key = name.trim_start_matches('!');
        let stated = config_value(self.config, &[key.to_owned()]).and_then(Value::as_bool);
        stated.map(|flag| flag == (key == name))
    }

    /// What stands between, with the activation and the q/k norms looked up.
    pub(super) fn between(&self, rule: &PairRule, place: &Place) -> Between {
        let normed = rule.norm_if.as_deref().map(|p| fill(p, place));
        if normed.is_some_and(|name| self.tensors.named(&name).is_some()) {
            return Between::Norm;
        }
        if rule.between != Between::Activation {
            return rule.between;
        }
        let stated = config_value(self.config, &self.stack.activation).and_then(Value::as_str);
        let named = stated.or(self.stack.default_activation.as_deref());
        named.map_or(Between::Nonlinear, Between::of_activation)
    }

    /// The gain to fold into a reader of `dim` columns; none where the norm has none.
    ///
    /// # Errors
    /// In words, when its shape is not that of the columns.
    fn gain(&self, rule: &PairRule, place: &Place, dim: usize) -> Result<Option<Gain>, String> {
        let mut names = rule.gain.iter().map(|p| fill(p, place));
        let Some(tensor) = names.find_map(|name| self.tensors.named(&name)) else {
            return Ok(None);
        };
        if !tensor.is_float() || tensor.info.shape != [dim] {
            return Err(format!(
                "no pair: gain `{}` has shape {:?} of type {:?}, expected {dim} floats",
                tensor.info.name, tensor.info.shape, tensor.info.dtype
            ));
        }
        let one_plus = self.stack.gain_one_plus;
        Ok(Some(Gain { tensor: tensor.info.name.clone(), one_plus }))
    }

    /// A pair of two whole matrices.
    ///
    /// # Errors
    /// In words, why they are none.
    fn joined(&self, rule: &PairRule, layer: usize, two: Two<'_>) -> Result<Pair, String> {
        let (writer, reader, place) = two;
        // What stands behind the stack is in no layer: its norm may be that of the last one.
        let place = if place == Place::default() { writer.place } else { place };
        let mut between = self.between(rule, &place);
        // Beside a gate the other branch is linear.
        let has_gate = || self.found.contains_key(&(Some(layer), Role::Gate, writer.expert));
        if rule.pair == PairName::UpDown && rule.between == Between::Activation && has_gate() {
            between = Between::Gated;
        }
        let gain = self.gain(rule, &place, reader.shape().1)?;
        let mut writes = Operand::new(writer.name.clone(), writer.view.clone());
        // Biases belong to the shared space of the writer only; a reader's bias lies beyond it.
        if between.law() != Law::None && rule.pair.kind() != "stream" {
            writes = writes.with_bias(writer.bias.as_deref().cloned());
        }
        // A table writes its rows, a patch embedding is a matrix as any other.
        if rule.pair == PairName::EmbedQkv && writer.role == Role::Embed {
            writes = writes.transposed();
        }
        let mut pair = Pair::new(rule.pair, writes, reader.with_gain(gain), between);
        if pair.dim != pair.reader.shape().1 {
            let (writes, reads) = (pair.dim, pair.reader.shape().1);
            let (writer, reader) = (&writer.name, &pair.reader.label);
            return Err(format!(
                "no pair: `{writer}` writes {writes} dimensions, `{reader}` reads {reads}"
            ));
        }
        pair.layer = match rule.pair {
            PairName::EmbedQkv => Some(0),
            PairName::Conv if writer.role == Role::Stem => None,
            _ => Some(layer),
        };
        pair.expert = writer.expert;
        // One writer and one reader of many have no law, whatever stands between.
        if rule.pair.kind() == "stream" {
            pair.law = Law::None;
        }
        Ok(pair)
    }

    /// The writers and readers of a layer that a rule joins.
    fn operands(&self, rule: &PairRule, layer: usize) -> Vec<Two<'a>> {
        let here = |role| self.whole(Some(layer), role);
        let last = layer + 1 == self.depth;
        let two = |writer: Option<&'a Whole>, reader: Option<(Operand, Place)>| {
            let (writer, (reader, place)) = writer.zip(reader)?;
            Some((writer, reader, place))
        };
        let reads = |whole: Option<&Whole>| whole.map(|w| (w.reads(), w.place));
        let without = rule.without.is_some_and(|role| {
            let layer = layer + usize::from(rule.next || rule.pair == PairName::DownQkv);
            let layer = Some(layer).filter(|_| !role.is_outside());
            self.all(layer, role).next().is_some()
        });
        if without {
            return Vec::new();
        }
        let one = match rule.pair {
            PairName::UpDown => return self.in_mlp(Role::Up, layer),
            PairName::GateDown => return self.in_mlp(Role::Gate, layer),
            PairName::Conv => return self.in_block(layer),
            PairName::QueryLatent => {
                let roles = [Role::Query, Role::QueryRotary];
                two(here(Role::QueryLatent), self.stacked(Some(layer), &roles))
            }
            PairName::KeyValueLatent => {
                let roles = [Role::Key, Role::Value];
                two(here(Role::KeyValueLatent), self.stacked(Some(layer), &roles))
            }
            PairName::SsmDt => two(here(Role::MixerStep), reads(here(Role::MixerStepUp))),
            PairName::OUp => two(here(Role::Output), reads(here(Role::Up))),
            PairName::DownQkv if !last => two(here(Role::Down), self.qkv(layer + 1)),
            PairName::EmbedQkv if layer == 0 => {
                let embed = self.whole(None, Role::Embed);
                two(embed.or_else(|| self.whole(None, Role::Patch)), self.qkv(0))
            }
            PairName::DownUnembed if last => {
                let unembed = self.whole(None, Role::Unembed);
                let unembed = unembed.or_else(|| self.whole(None, Role::Embed));
                // Its gain is that of the last norm, which names no layer.
                two(here(Role::Down), reads(unembed))
            }
            PairName::Stream => self.stream(rule, layer),
            _ => None,
        };
        one.into_iter().collect()
    }

    /// One pair an expert, or one where there are none.
    fn in_mlp(&self, role: Role, layer: usize) -> Vec<Two<'a>> {
        let two = |down: &'a Whole| {
            let writer = self.found.get(&(Some(layer), role, down.expert))?;
            Some((writer, down.reads(), down.place))
        };
        self.all(Some(layer), Role::Down).filter_map(two).collect()
    }

    /// Consecutive convolutions of a block, each of which reads what the one before writes; with the
    /// first block those before the stack.
    fn in_block(&self, layer: usize) -> Vec<Two<'a>> {
        let mut two = Self::consecutive(&self.all(Some(layer), Role::Conv).collect::<Vec<_>>());
        if layer == 0 {
            two.splice(0..0, Self::consecutive(&self.all(None, Role::Stem).collect::<Vec<_>>()));
        }
        two
    }

    fn consecutive(convs: &[&'a Whole]) -> Vec<Two<'a>> {
        let follows = |two: &&[&Whole]| two[1].channels() == two[0].view.n_rows();
        let two = |two: &[&'a Whole]| (two[0], two[1].reads(), two[1].place);
        convs.windows(2).filter(follows).map(two).collect()
    }

    /// Two over the residual stream: of several in one role the last writes and the first reads.
    fn stream(&self, rule: &PairRule, layer: usize) -> Option<Two<'a>> {
        let role = rule.writer?;
        let (is_first, is_last) = (layer == 0, layer + 1 == self.depth);
        let writer = match role.is_outside() {
            true if is_first => self.all(None, role).next_back()?,
            true => return None,
            false => self.all(Some(layer), role).next_back()?,
        };
        let is_behind = rule.reader.iter().all(|role| role.is_outside());
        let at = match (is_behind, rule.next) {
            (true, _) if is_last => None,
            (true, _) => return None,
            (false, next) => Some(layer + usize::from(next)),
        };
        let (reader, place) = self.stacked(at, &rule.reader)?;
        Some((writer, reader, place))
    }

    /// The first matrices of these roles, one below the other; those that are not there are left out.
    fn stacked(&self, layer: Option<usize>, roles: &[Role]) -> Option<(Operand, Place)> {
        let found = || roles.iter().filter_map(|role| self.all(layer, *role).next());
        let first = found().next()?;
        let mut tensors: Vec<&str> = found().map(|w| w.view.tensor.as_str()).collect();
        tensors.dedup();
        let parts = found().flat_map(|w| w.reads().parts).collect();
        let label = match tensors.as_slice() {
            [_] => first.view.tensor.clone(),
            several => several.join(" + ").into(),
        };
        Some((Operand::stacked(label, parts), first.place))
    }

    /// All rows that read the stream at a block's attention.
    fn qkv(&self, layer: usize) -> Option<(Operand, Place)> {
        let has = |role| self.whole(Some(layer), role).is_some();
        let roles: &[Role] = match (has(Role::QueryLatent), has(Role::KeyValueLatent)) {
            (true, _) => &[Role::QueryLatent, Role::KeyValueLatent, Role::KeyRotary],
            (false, true) => {
                &[Role::Query, Role::QueryRotary, Role::KeyValueLatent, Role::KeyRotary]
            }
            _ if has(Role::Query) && has(Role::Key) && has(Role::Value) => {
                &[Role::Query, Role::Key, Role::Value]
            }
            _ => return None,
        };
        self.stacked(Some(layer), roles)
    }
}

impl Whole {
    /// Input channels: columns over the positions of a window.
    fn channels(&self) -> usize {
        self.view.n_cols() / self.positions.max(1)
    }

    /// As a reader: of a kernel every position reads all channels.
    fn reads(&self) -> Operand {
        let parts = match self.positions {
            0 | 1 => vec![self.view.clone()],
            n => self.window.positions(&self.view, n),
        };
        Operand::stacked(self.name.clone(), parts)
    }
}
