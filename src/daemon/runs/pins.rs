//! Which saves of a run are to be kept from rotation.

use super::Run;
use crate::config::Settings;
use crate::daemon::pin::{N_NEWEST, PinOrder, PinWhat};
use crate::history::{Anomaly, News};
use crate::remote::is_remote;
use crate::watch::SettledSave;

impl Run {
    /// What to do after its saves were judged as far as they are known: the last good save before what
    /// is unusual is kept; where nothing is, the last good ones are linked, once none waits any more.
    pub(in crate::daemon) fn pins(
        &self,
        news: &News,
        has_more: bool,
        settings: &Settings,
    ) -> Vec<PinOrder> {
        // What lies in an object store cannot be linked.
        let dir = settings.pin_dir().filter(|_| !is_remote(&self.path));
        let Some(dir) = dir else { return Vec::new() };
        let order = |what| PinOrder { dir: dir.to_owned(), run: self.name.clone(), what };
        if let Some(save) = self.saves.values().next_back().filter(|seen| seen.save.in_place) {
            return vec![order(PinWhat::InPlace(save.save.path.clone()))];
        }
        let mut orders = Vec::new();
        let began = news.began.iter().any(Anomaly::may_damage);
        if let Some(step) = self.chronicle.last_good_step().filter(|_| began) {
            orders.push(order(PinWhat::Keep { step, save: self.save_of(step) }));
        }
        let good: Vec<(u64, SettledSave)> = self
            .chronicle
            .good_steps(N_NEWEST)
            .into_iter()
            .filter_map(|step| Some((step, self.save_of(step)?)))
            .collect();
        if !has_more && !good.is_empty() {
            orders.push(order(PinWhat::Newest(good)));
        }
        orders
    }

    /// The save of a step, in the segment that training is in or the last one before that has it.
    fn save_of(&self, step: u64) -> Option<SettledSave> {
        let found = self.saves.iter().rev().find(|(age, _)| age.step == Some(step));
        found.map(|(_, seen)| seen.save.clone())
    }
}
