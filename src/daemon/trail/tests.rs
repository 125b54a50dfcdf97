use serde_json::Value;

use super::*;
use crate::history::{HeadProfile, PairProfile};

fn place(segment: u32, step: u64) -> Place {
    Place { segment, step }
}

fn facts(loss: f64) -> Facts {
    let means = BTreeMap::from([("v_o", 0.25)]);
    Facts { saved_at: Some(1000.0), loss: Some(loss), n_nonfinite: Some(0), means }
}

fn profile(n_layers: usize) -> Profile {
    let pair = |layer| PairProfile {
        pair: "v_o",
        layer: Some(layer),
        n: 4,
        gram_correlation: Some(0.123_456),
        commutator: None,
        commutator_max: Some(2.0),
    };
    let heads = HeadProfile {
        projection: "q",
        layer: 0,
        overlap: Some(f64::NAN),
        ..HeadProfile::default()
    };
    Profile { pairs: (0..n_layers).map(pair).collect(), heads: vec![heads] }
}

impl Trail {
    fn put_save(&mut self, place: Place, facts: &Facts, profile: Option<&Profile>) {
        self.put(place, Row::new(place, facts, profile));
    }
}

fn parsed(trail: &mut Trail) -> Value {
    serde_json::from_slice(&trail.body("r")).unwrap()
}

/// Step and segment of every row.
fn places(trail: &mut Trail) -> Vec<(u64, u64)> {
    let body = parsed(trail);
    let parts = body["parts"].as_array().unwrap();
    let rows = parts.iter().flat_map(|part| part["rows"].as_array().unwrap());
    rows.map(|row| (row[0].as_u64().unwrap(), row[1].as_u64().unwrap())).collect()
}

#[test]
fn saves_stand_in_the_order_of_training_however_they_are_measured() {
    let mut trail = Trail::default();
    assert_eq!(places(&mut trail), []);
    for (segment, step) in [(0, 300), (0, 100), (1, 150), (0, 200), (0, 100)] {
        trail.put_save(place(segment, step), &facts(1.0), Some(&profile(2)));
    }
    assert_eq!(places(&mut trail), [(100, 0), (200, 0), (300, 0), (150, 1)]);
    let n_bytes: usize = trail.rows.values().map(Row::n_bytes).sum();
    assert_eq!(trail.n_bytes, n_bytes, "what was replaced is not counted");
}

#[test]
fn a_row_has_a_number_for_each_column_and_null_for_what_is_not_known() {
    let mut trail = Trail::default();
    trail.put_save(place(0, 7), &facts(-0.0), Some(&profile(1)));
    let body = parsed(&mut trail);
    let part = &body["parts"][0];
    let columns = part["columns"].as_array().unwrap();
    let row = part["rows"][0].as_array().unwrap();
    assert_eq!(columns.len(), row.len());
    let value = |metric: &str| {
        let at = columns.iter().position(|column| column["metric"] == metric).unwrap();
        row[at].to_string()
    };
    for (metric, wanted) in [
        ("step", "7"),
        ("saved_at", "1000.0"),
        ("train_loss", "0.0"),
        ("alignment_mean", "0.25"),
        ("commutator_max_ratio", "2.0"),
        ("gram_correlation", "0.1235"),
        ("commutator_vs_chance", "null"),
        ("head_overlap_ratio", "null"),
    ] {
        assert_eq!(value(metric), wanted, "{metric}");
    }
    let gram = columns.iter().find(|column| column["metric"] == "gram_correlation").unwrap();
    assert_eq!((&gram["pair"], &gram["layer"]), (&"v_o".into(), &0.into()));
}

#[test]
fn saves_with_other_columns_begin_another_part() {
    let mut trail = Trail::default();
    trail.put_save(place(0, 1), &facts(1.0), None);
    for (step, n_layers) in [(2, 1), (3, 1), (4, 2)] {
        trail.put_save(place(0, step), &facts(1.0), Some(&profile(n_layers)));
    }
    let body = parsed(&mut trail);
    let n_rows = body["parts"].as_array().unwrap().iter().map(|part| {
        let n_columns = part["columns"].as_array().unwrap().len();
        let rows = part["rows"].as_array().unwrap();
        assert!(rows.iter().all(|row| row.as_array().unwrap().len() == n_columns));
        rows.len()
    });
    assert_eq!(n_rows.collect::<Vec<_>>(), [1, 2, 1]);
    let shared = trail.rows.values().map(|row| Arc::as_ptr(&row.columns).cast::<u8>());
    assert_eq!(shared.collect::<std::collections::BTreeSet<_>>().len(), 3);
}

#[test]
fn a_full_trail_keeps_the_newest_and_the_whole_way_there() {
    let mut trail = Trail::default();
    let limit = 100 * 1024;
    for step in 0..5000 {
        trail.put_save(place(u32::from(step >= 2000), step * 10), &facts(1.0), Some(&profile(3)));
        trail.hold_to(limit);
        assert!(trail.n_bytes <= limit, "{}", trail.n_bytes);
    }
    let kept = places(&mut trail);
    assert_eq!(kept[0], (0, 0), "the beginning");
    let newest: Vec<u64> = kept.iter().rev().take(NEWEST).map(|(step, _)| *step).collect();
    assert_eq!(newest, (5000 - NEWEST as u64..5000).rev().map(|n| n * 10).collect::<Vec<_>>());
    assert!(kept.contains(&(20_000, 1)), "where training went back");
    let older = &kept[..kept.len() - NEWEST];
    let gaps = older.windows(2).map(|two| two[1].0 - two[0].0);
    assert!(gaps.max() < Some(8 * trail.spacing), "no hole: {kept:?}");
    let body = parsed(&mut trail);
    assert_eq!(body["thinned"].as_u64(), Some(5000 - kept.len() as u64));
}

#[test]
fn the_newest_save_stays_however_large_it_is() {
    let mut trail = Trail::default();
    for step in 0..3 {
        trail.put_save(place(0, step), &facts(1.0), Some(&profile(100)));
        trail.hold_to(10);
    }
    assert_eq!(places(&mut trail), [(2, 0)]);
    // Saves that are all in segments of their own have no distance.
    let mut trail = Trail::default();
    for segment in 0..200 {
        trail.put_save(place(segment, 1), &facts(1.0), None);
    }
    trail.hold_to(10_000);
    assert!(trail.n_bytes <= 10_000);
    assert_eq!(places(&mut trail).last(), Some(&(1, 199)));
}

#[test]
fn the_same_bytes_are_served_until_something_is_added() {
    let mut trails = Trails::default();
    for run in ["a", "b\"<"] {
        trails.runs.entry(run.to_owned()).or_default().put_save(place(0, 1), &facts(1.0), None);
    }
    let first = trails.bodies();
    let again = trails.bodies();
    assert!(first.iter().all(|(run, body)| body.as_ptr() == again[run].as_ptr()));
    let named: Value = serde_json::from_slice(&first["b\"<"]).unwrap();
    assert_eq!(named["run"], "b\"<");
    trails.runs.get_mut("a").unwrap().put_save(place(0, 2), &facts(1.0), None);
    let then = trails.bodies();
    assert_ne!(then["a"], first["a"]);
    assert_eq!(then["b\"<"].as_ptr(), first["b\"<"].as_ptr());
    trails.forget("a");
    assert!(!trails.bodies().contains_key("a"));
}

#[test]
fn layers_are_added_to_the_past_and_not_to_what_was_measured_since() {
    let mut trails = Trails::default();
    let trail = trails.runs.entry("r".to_owned()).or_default();
    trail.put_save(place(0, 1), &facts(1.0), None);
    trail.put_save(place(0, 2), &facts(2.0), Some(&profile(1)));
    let stored = |step| StoredProfile {
        place: place(0, step),
        saved_at: None,
        loss: Some(9.0),
        n_nonfinite: Some(0),
        profile: profile(1),
    };
    trails.refine("r", past(vec![stored(1), stored(2), stored(3)]));
    trails.refine("gone", past(vec![stored(1)]));
    let body: Value = serde_json::from_slice(&trails.bodies()["r"]).unwrap();
    assert_eq!(body["parts"].as_array().unwrap().len(), 1, "{body}");
    let rows = body["parts"][0]["rows"].as_array().unwrap();
    let losses: Vec<f64> = rows.iter().map(|row| row[3].as_f64().unwrap()).collect();
    assert_eq!(losses, [9.0, 2.0]);
    assert_eq!(trails.bodies().len(), 1);
}

#[test]
fn of_a_broken_save_there_is_no_mean_of_what_is_left() {
    let mut trail = Trail::default();
    let broken = Facts { n_nonfinite: Some(1), ..facts(1.0) };
    trail.put_save(place(0, 100), &facts(1.0), Some(&profile(1)));
    trail.put_save(place(0, 200), &broken, Some(&profile(1)));
    let body = parsed(&mut trail);
    let part = &body["parts"][0];
    let at = |metric: &str| {
        part["columns"].as_array().unwrap().iter().position(|c| c["metric"] == metric).unwrap()
    };
    for (metric, sound) in [("alignment_mean", 0.25), ("commutator_max_ratio", 2.0)] {
        let values = [0, 1].map(|row| part["rows"][row][at(metric)].as_f64());
        assert_eq!(values, [Some(sound), None], "{metric}");
    }
}
