//! The shortest history, and its picture.

use super::made::{Made, v};
use crate::check::*;
use crate::history::Seeded;

/// Much goes right, by many clients and on several keys, around one thing that goes wrong.
fn noisy(mode: Mode, wrong: impl FnOnce(&mut Made)) -> History {
    let mut made = Made::new(mode);
    let mut random = Seeded::new(5);
    let mut holds = [0; 4];
    let mut around = |made: &mut Made, from: u32, least: usize| {
        for seq in from..from + 60 {
            let place = least + random.below(4 - least);
            let key = Key::new(["k", "a", "b", "c"][place], 8).expect("a key");
            let client = 10 + random.below(5) as u32;
            let op = if random.below(2) == 0 {
                holds[place] = seq;
                made.put(seq)
            } else {
                made.get(holds[place])
            };
            (op.key, op.client) = (key, client);
        }
    };
    around(&mut made, 1_000, 0);
    wrong(&mut made);
    // What happened to the first key must not be mistaken for noise.
    around(&mut made, 2_000_000, 1);
    made.history()
}

fn new_old_inversion(made: &mut Made) {
    made.put(1_500);
    made.put(1_501).answered_us += 500;
    made.get(1_501);
    made.get(1_500).client = 3;
    made.now_us += 600;
}

fn find(history: &History, check: &str) -> Finding {
    let found = super::super::check(history).into_iter();
    found.into_iter().find(|f| f.check == check && f.found > 0).expect("it is found")
}

#[test]
fn an_inversion_is_shown_by_its_two_writes_and_two_reads() {
    for mode in Mode::ALL {
        let history = noisy(mode, new_old_inversion);
        let shortest = shortest(&history, &find(&history, "linearizability"));
        let what: Vec<String> = shortest
            .ops
            .iter()
            .map(|op| format!("{} {}", op.action, op.value.as_ref().expect("a value")))
            .collect();
        assert_eq!(what, ["put 1-1500", "put 1-1501", "get 1-1501", "get 1-1500"], "{mode}");
        assert!(find(&shortest, "linearizability").found == 1);
    }
}

#[test]
fn other_findings_are_shortened_too_and_stay_what_they_were() {
    let stale = noisy(Mode::Leader, |made| {
        made.put(1_500);
        made.put(1_501);
        made.get(1_500);
    });
    let short = shortest(&stale, &find(&stale, "stale-read"));
    assert_eq!(short.ops.len(), 3, "{:#?}", short.ops);
    let back = noisy(Mode::Leader, new_old_inversion);
    assert!(super::super::check(&back).iter().all(|f| f.check != "stale-read" || f.found == 0));
    let gone = noisy(Mode::Leader, |made| {
        made.put(1_500);
        made.get(0);
    });
    let finding = find(&gone, "stale-read");
    let short = shortest(&gone, &finding);
    assert_eq!(short.ops.len(), 2, "{:#?}", short.ops);
    assert!(super::super::check(&short).iter().any(|f| f.is_alike(&finding) && f.found > 0));
}

#[test]
fn a_delete_that_may_explain_an_absence_stays() {
    // Two disappearances and one delete: without the delete it would look like one.
    let history = noisy(Mode::Leader, |made| {
        let delete = made.op(4, Action::Delete, 1);
        (delete.ended, delete.status) = (Ended::Unknown, 504);
        made.put(1_500);
        made.get(0);
        made.put(1_501);
        made.get(0);
    });
    let short = shortest(&history, &find(&history, "linearizability"));
    let count = |action| short.ops.iter().filter(|op| op.action == action).count();
    assert_eq!((count(Action::Delete), count(Action::Put), count(Action::Get)), (1, 2, 2));
}

#[test]
fn writes_that_cannot_have_had_a_version_do_not_stay_for_it() {
    let history = noisy(Mode::Leader, |made| {
        let shown = made.put(1_500);
        (shown.ended, shown.version, shown.status) = (Ended::Unknown, None, 504);
        made.get(1_500);
        let unshown = made.put(1_501);
        (unshown.ended, unshown.version, unshown.status) = (Ended::Unknown, None, 504);
        let failed = made.put(1_502);
        (failed.ended, failed.version, failed.status) = (Ended::Failed, None, 503);
        made.put(1_503).if_match = Some(v(1_500));
        made.get(1_500);
    });
    let short = shortest(&history, &find(&history, "stale-read"));
    let values: Vec<String> = short.ops.iter().map(|op| format!("{:?}", op.value)).collect();
    assert!(values.iter().all(|value| !value.contains("1501") && !value.contains("1502")));
    assert_eq!(short.ops.len(), 3, "{values:?}");
}

#[test]
fn where_nothing_was_found_nothing_is_left_out() {
    let history = noisy(Mode::Leader, |_| ());
    let finding = super::super::check(&history).remove(0);
    assert_eq!(shortest(&history, &finding), history);
}

#[test]
fn a_picture_stands_alone_and_survives_strange_words() {
    let history = noisy(Mode::Leader, |made| {
        new_old_inversion(made);
        let put = made.put(1_502);
        (put.ended, put.version, put.status) = (Ended::Unknown, None, 504);
        let refused = made.put(1_503);
        (refused.ended, refused.status, refused.if_match) = (Ended::Failed, 412, Some(v(4)));
        refused.version = None;
        made.get(0).value = Some(Value::Foreign("<b>&\"\u{1}".to_owned()));
    });
    let svg = draw(&history, "a <heading> & more");
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("a &lt;heading&gt; &amp; more"));
    assert!(svg.contains("put k 1-1501 ok @v"), "{svg}");
    assert!(svg.contains("put k 1-1502 unknown") && svg.contains("refused (412)"));
    assert!(!svg.contains("<b>") && !svg.contains('\u{1}'));
    assert!(!svg.contains("http:") || svg.matches("http:").count() == 1, "only the namespace");
    // Every bracket that opens closes.
    assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    let empty = History { header: history.header.clone(), ops: Vec::new() };
    assert!(draw(&empty, "nothing").ends_with("</svg>\n"));
}
