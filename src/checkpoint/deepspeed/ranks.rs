//! Which rank a file is of, by its name.

/// The file of one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank<'a> {
    /// Number among those that share the model's parts.
    pub(super) model: usize,
    /// Number among those that share the optimiser's.
    pub(super) data: usize,
    pub(super) name: &'a str,
}

/// The files of that ending, by rank: `[bf16_]zero_pp_rank_D_mp_rank_M…` or `mp_rank_M…`.
pub(super) fn of<'a>(names: &[&'a str], ending: &str) -> Vec<Rank<'a>> {
    let rank = |name: &'a str| {
        let front = name.strip_suffix(ending)?;
        let (front, model) = front.rsplit_once("mp_rank_")?;
        let data = match front.strip_suffix('_') {
            Some(front) => number(front.rsplit_once("zero_pp_rank_")?.1)?,
            None if front.is_empty() => 0,
            None => return None,
        };
        Some(Rank { model: number(model)?, data, name })
    };
    let mut ranks: Vec<Rank<'a>> = names.iter().filter_map(|name| rank(name)).collect();
    ranks.sort_unstable();
    ranks
}

fn number(text: &str) -> Option<usize> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_come_by_number() {
        let names = [
            "bf16_zero_pp_rank_10_mp_rank_00_optim_states.pt",
            "bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt",
            "mp_rank_00_model_states.pt",
            "mp_rank_x_optim_states.pt",
            "layer_01-model_00_optim_states.pt",
        ];
        let found: Vec<usize> = of(&names, "_optim_states.pt").iter().map(|r| r.data).collect();
        assert_eq!(found, [2, 10]);
        let [model] = of(&names, "_model_states.pt")[..] else { panic!("one file of a model") };
        assert_eq!((model.model, model.data), (0, 0));
    }
}
