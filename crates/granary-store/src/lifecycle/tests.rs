//! What rules say.

use super::*;

const DAY: u64 = DAY_US;

fn of<'a>(key: &'a str, size: u64, tags: &'a [(String, String)], created: u64) -> Candidate<'a> {
    Candidate { key, size_bytes: Some(size), tags, class: None, created: Timestamp(created) }
}

fn rule(id: &str, prefix: &str) -> LifecycleRule {
    let filter = RuleFilter { form: FilterForm::One, prefix: Some(prefix.to_owned()), ..RuleFilter::default() };
    LifecycleRule { id: id.to_owned(), enabled: true, filter, ..LifecycleRule::default() }
}

fn expires(id: &str, prefix: &str, days: u32) -> LifecycleRule {
    LifecycleRule { expiration: Some(Expiration::At(When::Days(days))), ..rule(id, prefix) }
}

#[test]
fn days_end_at_midnight() {
    // AWS's own example: written on 15 January at 10:30, three days: 19 January 00:00.
    let written = Timestamp::from_secs(1_389_781_800);
    assert_eq!(after(written, 3, DAY), Timestamp::from_secs(1_390_089_600));
    assert_eq!(after(Timestamp(7), 3, 10), Timestamp(37));
}

#[test]
fn the_earliest_rule_that_is_about_the_object_decides() {
    let rules = LifecycleRules {
        rules: vec![expires("late", "", 30), expires("soon", "logs/", 3), expires("other", "tmp/", 1), {
            LifecycleRule { enabled: false, ..expires("off", "logs/", 1) }
        }],
        transition_minimum: None,
    };
    let expiry = rules.expiry(&of("logs/a", 1, &[], DAY), DAY).unwrap();
    assert_eq!((expiry.rule.as_str(), expiry.at), ("soon", Timestamp(4 * DAY)));
    assert_eq!(rules.expiry(&of("a", 1, &[], DAY), DAY).unwrap().rule, "late");
    assert_eq!(rules.of_current(&of("logs/a", 1, &[], DAY), Timestamp(4 * DAY - 1), DAY), Verdict::Keep);
    assert_eq!(rules.of_current(&of("logs/a", 1, &[], DAY), Timestamp(4 * DAY), DAY), Verdict::Remove);
    assert_eq!(LifecycleRules::decode(&rules.encode()), Some(rules));
}

#[test]
fn filters_hold_only_together() {
    let tags = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
    let filter = RuleFilter {
        form: FilterForm::And,
        prefix: Some("p/".into()),
        tags: tags.to_vec(),
        larger_than: Some(10),
        smaller_than: Some(20),
    };
    assert!(filter.holds(&of("p/x", 11, &tags, 0)));
    assert!(!filter.holds(&of("x", 11, &tags, 0)));
    assert!(!filter.holds(&of("p/x", 10, &tags, 0)));
    assert!(!filter.holds(&of("p/x", 20, &tags, 0)));
    assert!(!filter.holds(&of("p/x", 11, &tags[..1], 0)));
    let marker = Candidate { size_bytes: None, ..of("p/x", 0, &[], 0) };
    assert!(!filter.holds(&marker));
    assert!(rule("r", "p/").filter.holds(&marker));
}

#[test]
fn noncurrent_versions_go_by_age_and_by_number() {
    let noncurrent_expiration = Some(NoncurrentExpiration { days: 2, newer_kept: Some(3) });
    let rules = LifecycleRules {
        rules: vec![LifecycleRule { noncurrent_expiration, ..rule("r", "") }],
        ..LifecycleRules::default()
    };
    let verdict = |newer, now| rules.of_noncurrent(&of("k", 1, &[], 0), Timestamp(10), newer, Timestamp(now), 10);
    assert_eq!(verdict(3, 30), Verdict::Remove);
    assert_eq!(verdict(2, 1_000_000), Verdict::Keep);
    assert_eq!(verdict(3, 29), Verdict::Keep);
}

#[test]
fn objects_move_down_and_never_back() {
    let transitions = vec![(When::Days(1), "INTELLIGENT_TIERING".to_owned()), (When::Days(3), "ONEZONE_IA".to_owned())];
    let rules =
        LifecycleRules { rules: vec![LifecycleRule { transitions, ..rule("r", "") }], ..LifecycleRules::default() };
    let big = TRANSITION_BYTES_MIN;
    let verdict = |class, size, now| {
        let of = Candidate { class, ..of("k", size, &[], 0) };
        rules.of_current(&of, Timestamp(now), 10)
    };
    assert_eq!(verdict(None, big, 9), Verdict::Keep);
    assert_eq!(verdict(None, big - 1, 10), Verdict::Keep);
    assert_eq!(verdict(None, big, 10), Verdict::Transition("INTELLIGENT_TIERING".into()));
    assert_eq!(verdict(Some("INTELLIGENT_TIERING"), big, 29), Verdict::Keep);
    assert_eq!(verdict(Some("INTELLIGENT_TIERING"), big, 30), Verdict::Transition("ONEZONE_IA".into()));
    assert_eq!(verdict(Some("ONEZONE_IA"), big, 300), Verdict::Keep);
}

#[test]
fn lone_markers_go_at_once_or_by_age() {
    let at_once = LifecycleRule { expiration: Some(Expiration::Marker(true)), ..rule("r", "a/") };
    let rules = LifecycleRules { rules: vec![at_once, expires("s", "b/", 2)], ..LifecycleRules::default() };
    let gone = |key, now| rules.removes_marker(key, Timestamp(0), Timestamp(now), 10);
    assert!(gone("a/x", 0));
    assert!(!gone("b/x", 19));
    assert!(gone("b/x", 20));
    assert!(!gone("c/x", 1_000));
}

#[test]
fn scans_are_narrowed_to_what_rules_are_about() {
    let common = |prefixes: &[&str]| {
        let rules = prefixes.iter().map(|prefix| rule("r", prefix)).collect();
        LifecycleRules { rules, ..LifecycleRules::default() }.common_prefix()
    };
    assert_eq!(common(&[]), None);
    assert_eq!(common(&["logs/a", "logs/b"]).as_deref(), Some("logs/"));
    assert_eq!(common(&["logs/", "logs/b"]).as_deref(), Some("logs/"));
    assert_eq!(common(&["é", "è"]).as_deref(), Some(""));
    assert_eq!(common(&["a", ""]).as_deref(), Some(""));
}
