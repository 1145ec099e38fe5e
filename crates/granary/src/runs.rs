//! What each training run asks of the node: counters per run and bucket, for `/metrics` and `granary top`.
//!
//! Adding a request up is one look-up in a table that readers share without a lock, and a handful of relaxed additions in a
//! stripe that few threads share, without an allocation. The table has bounds whatever clients call
//! themselves: so many runs, so many buckets of each; what is beyond is added up as `other`. A run that was quiet for ten minutes
//! makes room; a run of `other` that asks for more than twice as much as the quietest of those told apart takes its place.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use granary_s3::Ended;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Requests that belong to no run.
pub(crate) const NO_RUN: &str = "-";
/// Runs and buckets beyond the bounds.
pub(crate) const OTHER: &str = "other";
/// Buckets of one run that are told apart.
const BUCKETS_MAX: usize = 32;
/// Runs of `other` that are watched for whether they ask for much, for each that is told apart.
const WATCHED_PER_RUN: usize = 4;
/// A series that nobody has added to for so long goes.
const IDLE_S: u64 = 600;
/// How often runs are compared with those of `other`, at most.
const ROUND_S: u64 = 10;
/// Independent copies of each series' counters.
const STRIPES: usize = 8;
/// Buckets of times: four for each power of two microseconds.
const TIMES: usize = 104;

/// One thread's share of a series.
#[repr(align(128))]
struct Stripe {
    counts: [AtomicU64; COUNTS],
    first_byte: [AtomicU64; TIMES],
}

/// What is counted, in the order of `Stripe::counts`.
const NAMES: [&str; COUNTS] = [
    "requests",
    "errors",
    "bytes_in",
    "bytes_out",
    "busy_us",
    "drives_us",
    "client_us",
    "cache_hits",
    "cache_misses",
    "first_byte_us",
];
const COUNTS: usize = 10;

/// One run's requests to one bucket.
struct Series {
    stripes: [Stripe; STRIPES],
    used_s: AtomicU64,
}

#[derive(Clone)]
struct Run {
    buckets: Vec<(Box<str>, Arc<Series>)>,
}

impl Run {
    fn has(&self, bucket: &str) -> bool {
        self.buckets.iter().any(|(known, _)| **known == *bucket)
    }
}

type Table = HashMap<Box<str>, Run>;

/// What is remembered between comparisons.
#[derive(Default)]
struct Round {
    began_s: u64,
    /// Requests that each run had made when it began.
    before: HashMap<Box<str>, u64>,
    /// Requests of runs that were added up as `other` since.
    watched: HashMap<Box<str>, u64>,
}

/// All series.
pub(crate) struct Runs {
    runs_max: usize,
    table: ArcSwap<Table>,
    round: Mutex<Round>,
}

/// Everything that was counted of one series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) run: String,
    pub(crate) bucket: String,
    counts: [u64; COUNTS],
    first_byte: Vec<u64>,
}

impl Series {
    fn new(now_s: u64) -> Self {
        let zero = || AtomicU64::new(0);
        let stripe = || Stripe { counts: std::array::from_fn(|_| zero()), first_byte: std::array::from_fn(|_| zero()) };
        Self { stripes: std::array::from_fn(|_| stripe()), used_s: AtomicU64::new(now_s) }
    }

    fn add(&self, ended: &Ended<'_>, now_s: u64) {
        let stripe = &self.stripes[stripe_of_thread()];
        let added = [
            1,
            u64::from(ended.status >= 400),
            ended.bytes_in,
            ended.bytes_out,
            ended.micros,
            ended.drives_micros,
            ended.client_micros,
            ended.cache_hits,
            ended.cache_misses,
            ended.first_byte_micros,
        ];
        for (count, added) in stripe.counts.iter().zip(added) {
            if added > 0 {
                count.fetch_add(added, Relaxed);
            }
        }
        stripe.first_byte[time_bucket(ended.first_byte_micros)].fetch_add(1, Relaxed);
        if self.used_s.load(Relaxed) != now_s {
            self.used_s.store(now_s, Relaxed);
        }
    }

    fn requests(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.counts[0].load(Relaxed)).sum()
    }

    fn is_idle(&self, now_s: u64) -> bool {
        now_s.saturating_sub(self.used_s.load(Relaxed)) > IDLE_S
    }

    fn sums(&self, run: &str, bucket: &str) -> Sums {
        let sum = |pick: &dyn Fn(&Stripe) -> u64| self.stripes.iter().map(pick).sum();
        Sums {
            run: run.to_owned(),
            bucket: bucket.to_owned(),
            counts: std::array::from_fn(|i| sum(&|stripe| stripe.counts[i].load(Relaxed))),
            first_byte: (0..TIMES).map(|i| sum(&|stripe| stripe.first_byte[i].load(Relaxed))).collect(),
        }
    }
}

/// The stripe that this thread adds to: threads take turns.
fn stripe_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Relaxed) % STRIPES);
    }
    MINE.get()
}

/// The bucket of a time.
fn time_bucket(micros: u64) -> usize {
    if micros < 4 {
        return micros as usize;
    }
    let power = 63 - micros.leading_zeros() as usize;
    ((power - 1) * 4 + ((micros >> (power - 2)) & 3) as usize).min(TIMES - 1)
}

/// The microseconds that a bucket's times are below.
fn time_bound(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64 + 1;
    }
    let (power, quarter) = (bucket / 4 + 1, bucket as u64 % 4);
    (5 + quarter) << (power - 2)
}

impl Runs {
    /// `runs_max`: runs that are told apart, at least 1.
    pub(crate) fn new(runs_max: usize) -> Self {
        Self { runs_max: runs_max.max(1), table: ArcSwap::default(), round: Mutex::default() }
    }

    /// Adds a request up. `now_s`: seconds since some start, never going back.
    pub(crate) fn add(&self, ended: &Ended<'_>, now_s: u64) {
        let Some(bucket) = ended.bucket else { return };
        // Who is not let in does not name runs either.
        let run = ended.run.filter(|_| ended.status != 403).unwrap_or(NO_RUN);
        let found = find(&self.table.load(), run, bucket, |series| series.add(ended, now_s));
        if !found {
            self.admit(run, bucket, now_s).add(ended, now_s);
        }
    }

    /// The series of a run or bucket that is not in the table: its own, or `other`'s.
    fn admit(&self, run: &str, bucket: &str, now_s: u64) -> Arc<Series> {
        let mut round = self.round.lock();
        let current = self.table.load_full();
        let mut changed: Option<Table> = None;
        let mut name = run;
        if run != NO_RUN && !current.contains_key(run) && is_full(&current, self.runs_max) {
            *round.watched_of(run, self.runs_max) += 1;
            if now_s.saturating_sub(round.began_s) >= ROUND_S {
                let mut table = Table::clone(&current);
                forget_idle(&mut table, now_s);
                if is_full(&table, self.runs_max) {
                    compare(&mut table, &mut round, now_s);
                }
                changed = Some(table);
            }
            let table = changed.as_ref().unwrap_or(&current);
            if !table.contains_key(run) && is_full(table, self.runs_max) {
                name = OTHER;
            }
        }
        let known = changed.as_ref().unwrap_or(&current).get(name);
        let bucket = match known {
            Some(run) if !run.has(bucket) && run.buckets.len() >= BUCKETS_MAX => OTHER,
            _ => bucket,
        };
        let found = known.and_then(|run| run.buckets.iter().find(|(known, _)| **known == *bucket));
        let series = found.map(|(_, series)| Arc::clone(series));
        let Some(series) = series else {
            let series = Arc::new(Series::new(now_s));
            let mut table = changed.unwrap_or_else(|| Table::clone(&current));
            let run = table.entry(name.into()).or_insert_with(|| Run { buckets: Vec::new() });
            run.buckets.push((bucket.into(), Arc::clone(&series)));
            self.table.store(Arc::new(table));
            return series;
        };
        if let Some(table) = changed {
            self.table.store(Arc::new(table));
        }
        series
    }

    /// Every series, by run and bucket, without those that nobody adds to any more.
    pub(crate) fn sums(&self, now_s: u64) -> Vec<Sums> {
        let table = self.table.load_full();
        if table.values().flat_map(|run| &run.buckets).any(|(_, series)| series.is_idle(now_s)) {
            let _round = self.round.lock();
            let mut table = Table::clone(&self.table.load_full());
            forget_idle(&mut table, now_s);
            self.table.store(Arc::new(table));
        }
        let table = self.table.load_full();
        let mut all: Vec<Sums> = table
            .iter()
            .flat_map(|(name, run)| run.buckets.iter().map(|(bucket, series)| series.sums(name, bucket)))
            .collect();
        all.sort_by(|a, b| (&a.run, &a.bucket).cmp(&(&b.run, &b.bucket)));
        all
    }

    /// As JSON, for `granary top`.
    pub(crate) fn shown(&self, now_s: u64) -> Value {
        let runs: Vec<Value> = self.sums(now_s).iter().map(Sums::shown).collect();
        json!({ "runs_max": self.runs_max, "runs": runs })
    }
}

impl Round {
    /// The count of a run of `other`. Where too many are watched, one stands for all further ones.
    fn watched_of(&mut self, run: &str, runs_max: usize) -> &mut u64 {
        let is_new = !self.watched.contains_key(run);
        let name = if is_new && self.watched.len() >= runs_max * WATCHED_PER_RUN { OTHER } else { run };
        self.watched.entry(name.into()).or_default()
    }
}

fn find(table: &Table, run: &str, bucket: &str, then: impl FnOnce(&Series)) -> bool {
    let series = table
        .get(run)
        .and_then(|run| run.buckets.iter().find(|(known, _)| **known == *bucket))
        .map(|(_, series)| then(series));
    series.is_some()
}

/// Requests without a run and the rest are there in any case.
fn is_full(table: &Table, runs_max: usize) -> bool {
    table.keys().filter(|name| ***name != *NO_RUN && ***name != *OTHER).count() >= runs_max
}

fn forget_idle(table: &mut Table, now_s: u64) {
    for run in table.values_mut() {
        run.buckets.retain(|(_, series)| !series.is_idle(now_s));
    }
    table.retain(|_, run| !run.buckets.is_empty());
}

/// Makes room for runs of `other` that ask for more than twice as much as the quietest that are told apart.
fn compare(table: &mut Table, round: &mut Round, now_s: u64) {
    let total = |run: &Run| run.buckets.iter().map(|(_, series)| series.requests()).sum::<u64>();
    let since = |name: &str, run: &Run| total(run).saturating_sub(round.before.get(name).copied().unwrap_or(0));
    let mut known: Vec<(u64, Box<str>)> = table
        .iter()
        .filter(|(name, _)| ***name != *NO_RUN && ***name != *OTHER)
        .map(|(name, run)| (since(name, run), name.clone()))
        .collect();
    known.sort_unstable();
    let mut watched: Vec<(u64, Box<str>)> = round.watched.drain().map(|(name, count)| (count, name)).collect();
    watched.sort_unstable();
    for ((quiet, quiet_name), (busy, busy_name)) in known.into_iter().zip(watched.into_iter().rev()) {
        if busy <= quiet.saturating_mul(2) || *busy_name == *OTHER {
            break;
        }
        table.remove(&quiet_name);
        table.insert(busy_name, Run { buckets: Vec::new() });
    }
    round.before = table.iter().map(|(name, run)| (name.clone(), total(run))).collect();
    round.began_s = now_s;
}

impl Sums {
    /// A count by its name, 0 where there is no such count.
    pub(crate) fn get(&self, name: &str) -> u64 {
        NAMES.iter().position(|known| *known == name).map_or(0, |at| self.counts[at])
    }

    /// Times to the first byte: those of at most `bound_us`, for powers of two.
    pub(crate) fn first_byte_within(&self, bound_us: u64) -> u64 {
        self.first_byte.iter().enumerate().take_while(|(i, _)| time_bound(*i) <= bound_us).map(|(_, n)| n).sum()
    }

    fn shown(&self) -> Value {
        let times = self.first_byte.iter().enumerate().filter(|(_, count)| **count > 0);
        let times: Vec<Value> = times.map(|(i, count)| json!([time_bound(i), count])).collect();
        let mut shown = json!({ "run": self.run, "bucket": self.bucket, "first_byte": times });
        for (name, count) in NAMES.iter().zip(self.counts) {
            shown[*name] = json!(count);
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended<'a>(run: Option<&'a str>, bucket: &'a str) -> Ended<'a> {
        Ended {
            op: "GetObject",
            status: 200,
            bytes_out: 10,
            micros: 1_000,
            bucket: Some(bucket),
            run,
            ..Ended::default()
        }
    }

    fn requests(runs: &Runs, now_s: u64) -> Vec<(String, String, u64)> {
        runs.sums(now_s).into_iter().map(|sums| (sums.run.clone(), sums.bucket.clone(), sums.get("requests"))).collect()
    }

    #[test]
    fn buckets_of_times_follow_each_other() {
        for micros in (0..5_000).chain([1 << 20, (1 << 25) + 1, (1 << 26) - 1]) {
            let bucket = time_bucket(micros);
            assert!(micros < time_bound(bucket), "{micros}");
            assert!(bucket == 0 || time_bound(bucket - 1) <= micros, "{micros}");
        }
        assert_eq!(time_bucket(u64::MAX), TIMES - 1);
        for power in 2..26 {
            assert!((0..TIMES).any(|bucket| time_bound(bucket) == 1 << power), "{power}");
        }
    }

    #[test]
    fn requests_are_added_up_by_run_and_bucket() {
        let runs = Runs::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| runs.add(&ended(Some("a"), "data"), 1)));
            }
        });
        runs.add(&ended(None, "data"), 1);
        runs.add(&Ended { status: 404, first_byte_micros: 100, ..ended(Some("a"), "models") }, 1);
        runs.add(&Ended { status: 403, ..ended(Some("intruder"), "data") }, 1);
        runs.add(&Ended { bucket: None, ..ended(Some("a"), "") }, 1);
        let all = runs.sums(1);
        let of = |run: &str, bucket: &str| all.iter().find(|sums| (&*sums.run, &*sums.bucket) == (run, bucket));
        let data = of("a", "data").unwrap();
        assert_eq!((data.get("requests"), data.get("bytes_out"), data.get("busy_us")), (400, 4_000, 400_000));
        assert_eq!(of("-", "data").unwrap().get("requests"), 2, "who is refused has no run");
        let models = of("a", "models").unwrap();
        assert_eq!((models.get("errors"), models.first_byte_within(64), models.first_byte_within(128)), (1, 0, 1));
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn runs_and_buckets_beyond_the_bounds_are_other() {
        let runs = Runs::new(2);
        for run in ["a", "b", "c", "d"] {
            runs.add(&ended(Some(run), "x"), 1);
        }
        let got = requests(&runs, 1);
        assert_eq!(
            got.iter().map(|(run, _, n)| (run.as_str(), *n)).collect::<Vec<_>>(),
            [("a", 1), ("b", 1), ("other", 2)]
        );
        for n in 0..100 {
            runs.add(&ended(None, &format!("bucket-{n}")), 1);
        }
        let none: Vec<_> = requests(&runs, 1).into_iter().filter(|(run, ..)| run == NO_RUN).collect();
        assert_eq!(none.len(), BUCKETS_MAX + 1);
        assert_eq!(none.iter().find(|(_, bucket, _)| bucket == OTHER).unwrap().2, 100 - BUCKETS_MAX as u64);
    }

    #[test]
    fn idle_runs_make_room_and_busy_ones_take_the_place_of_quiet_ones() {
        let runs = Runs::new(2);
        runs.add(&ended(Some("old"), "x"), 1);
        runs.add(&ended(Some("b"), "x"), 500);
        assert_eq!(requests(&runs, 500).len(), 2);
        let later = IDLE_S + 2;
        assert_eq!(requests(&runs, later).len(), 1, "`old` was quiet for too long");
        runs.add(&ended(Some("c"), "x"), later);
        (0..5).for_each(|_| runs.add(&ended(Some("busy"), "x"), later));
        (0..20).for_each(|_| runs.add(&ended(Some("b"), "x"), later));
        // The next comparison is due: `busy` asked for five times as much as `c`.
        runs.add(&ended(Some("busy"), "x"), later + ROUND_S);
        runs.add(&ended(Some("busy"), "x"), later + ROUND_S);
        let got: Vec<String> = requests(&runs, later + ROUND_S).into_iter().map(|(run, ..)| run).collect();
        assert!(
            got.contains(&"busy".to_owned()) && got.contains(&"b".to_owned()) && !got.contains(&"c".to_owned()),
            "{got:?}"
        );
    }

    #[test]
    fn a_flood_of_names_stays_within_bounds() {
        let runs = Runs::new(8);
        for n in 0..10_000 {
            runs.add(&ended(Some(&format!("run-{n}")), "x"), n / 100);
        }
        let got = requests(&runs, 100);
        assert!(got.len() <= 9, "{}", got.len());
        assert!(runs.round.lock().watched.len() <= 8 * WATCHED_PER_RUN + 1);
    }
}
