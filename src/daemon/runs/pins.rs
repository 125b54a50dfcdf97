//! Which saves of a run are to be kept from rotation.

use super::Run;
use crate::config::Settings;
use crate::daemon::pin::PinOrder;
use crate::history::{News, Severity};
use crate::watch::SettledSave;

impl Run {
    /// What to do after `save` was taken in: those before what is unusual are kept, and where nothing
    /// is, this one is linked if it is the newest and finite.
    pub(in crate::daemon) fn pins(
        &self,
        save: &SettledSave,
        news: &News,
        settings: &Settings,
    ) -> Vec<PinOrder> {
        let Some(dir) = settings.pin_dir() else { return Vec::new() };
        let order = |step, save| {
            let (dir, run) = (dir.to_owned(), self.name.clone());
            PinOrder { dir, run, step, save }
        };
        let serious = |severity: Severity| severity > Severity::Info;
        // Of what follows a fault nothing is good, however the next anomaly sees it.
        let began = news.began.iter().any(|anomaly| serious(anomaly.severity));
        let last_good = self.chronicle.last_good_step().filter(|_| began && !save.in_place);
        let mut orders: Vec<PinOrder> =
            last_good.map(|step| order(step, None)).into_iter().collect();
        let is_well = self.chronicle.open().iter().all(|anomaly| !serious(anomaly.severity));
        let is_finite = self.report.as_ref().is_some_and(|report| report.nan + report.inf == 0);
        let is_newest = self.newest_measured.as_deref() == Some(&*save.path);
        // One that is rewritten in place has no step, perhaps; it is refused anyway, and that told.
        let step = self.analyzed_step.or(save.in_place.then_some(0));
        if let (true, Some(step)) = (is_well && is_finite && is_newest, step) {
            orders.push(order(step, Some(save.clone())));
        }
        orders
    }
}
