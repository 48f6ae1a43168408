//! Counters in Redis: all that holds of the store, and what only a server can do.

use std::{io::Read as _, os::unix::net::UnixListener, slice::from_ref, thread};

use rustix::process::{Pid, Signal, kill_process};

use super::{server::Redis, *};
use crate::limits::clock::in_micros;
use crate::{
    limits::{LIMIT, LimitsError, Password, RemoteError},
    policy::Counters as _,
};

/// Has the counters of this test kept in a Redis of its own.
fn with_redis(options: &[&str]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let redis = Redis::start(directory.path(), options).unwrap();
    REDIS.set(Some(redis));
    directory
}

fn change(with: impl FnOnce(&mut Redis)) {
    REDIS.with_borrow_mut(|redis| with(redis.as_mut().unwrap()));
}

fn ask(words: &[&str]) -> String {
    REDIS.with_borrow(|redis| redis.as_ref().unwrap().ask(words).unwrap())
}

fn signal(signal: Signal) {
    let pid = REDIS.with_borrow(|redis| redis.as_ref().unwrap().pid());
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// With its own clock.
fn shared(password: Option<&str>) -> Limits {
    let at = REDIS.with_borrow(|redis| redis.as_ref().unwrap().address());
    Limits::shared(Server {
        address: at.parse().unwrap(),
        password: password.map(|text| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), format!("{text}\n")).unwrap();
            Password::from_file(file.path()).unwrap()
        }),
    })
    .unwrap()
}

/// Why it is refused.
fn refusal(limits: &Limits, one: &LimitUse) -> String {
    match reserve(limits, from_ref(one)) {
        Err(Refused::Unavailable(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Once the server has been reached again.
fn recovered(limits: &Limits, one: &LimitUse) -> Result<Reservation, Refused> {
    for _ in 0..1_000 {
        match reserve(limits, from_ref(one)) {
            Err(Refused::Unavailable(_)) => thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
    panic!("it was not reached again");
}

#[test]
fn calls_are_reserved_as_in_the_store() {
    let _directory = with_redis(&[]);
    for test in [
        reserve::eleventh_call_of_a_minute_is_refused_until_the_next,
        reserve::hours_and_days_are_utc,
        reserve::sliding_window_frees_one_use_at_a_time,
        reserve::bucket_fills_up_steadily,
        reserve::all_uses_are_reserved_or_none,
        reserve::of_several_limits_the_one_that_takes_longest_is_told,
        reserve::two_uses_of_one_counter_see_each_other,
        reserve::amounts_are_counted_and_zero_uses_nothing,
        reserve::scopes_keep_callers_apart,
        reserve::names_cannot_be_made_to_run_together,
        reserve::refunds_follow_the_rule,
        reserve::what_is_not_settled_is_used,
        reserve::refund_goes_to_the_window_that_was_charged,
        reserve::refund_of_a_bucket_does_not_give_what_has_flowed_back,
        reserve::counts_are_shared_and_last,
        words::limits_are_told_with_the_next_time_that_works,
    ] {
        test();
    }
}

#[test]
fn the_model_holds_there_too() {
    let _directory = with_redis(&[]);
    model::calendar_windows();
    model::sliding_windows_are_exact_where_few_uses_are_alive();
    model::sliding_windows_of_many_uses_never_admit_too_many_and_few_too_late();
    model::buckets_admit_in_any_time_what_they_hold_and_what_flows_back();
}

#[test]
fn clocks_may_be_set_there_too() {
    let _directory = with_redis(&[]);
    for test in [
        clock_steps::step_back_opens_no_closed_window,
        clock_steps::windows_that_were_used_before_a_step_back_stay_used,
        clock_steps::after_a_step_back_windows_pass_but_never_too_fast,
        clock_steps::step_forward_is_believed,
        clock_steps::clock_that_starts_wrong_after_a_reboot_neither_frees_nor_blocks,
        clock_steps::stepping_back_never_gains_anything,
    ] {
        test();
    }
}

/// One call after the other, the script and the store say the same to the microsecond.
#[test]
fn script_and_store_never_differ() {
    let _directory = with_redis(&[]);
    for seed in 0..24 {
        let mut random = Random(seed);
        let house = House::new();
        let script = house.limits();
        let state = StateDirectory::open(&house.home.path().join("state"), Some(65_534)).unwrap();
        let store = Limits::open_with(&state, house.clock.clone()).unwrap();
        let bits = 10 + random.below(30);
        let length = Duration::from_micros(1 + random.below(1 << bits));
        let windows = [
            PER_MINUTE,
            Window::Calendar(Unit::Day),
            Window::Sliding(length),
            Window::Bucket(length),
        ];
        // Amounts for which products of doubles are no longer exact.
        let size = 1_u64 << (1 + random.below(45));
        let mut open = Vec::new();
        for step in 0..300 {
            let place = format!("seed {seed}, step {step}");
            match random.below(12) {
                // Never back: what counts nothing is forgotten there, and kept in the store. The
                // tests of the clock set it back.
                0 => house.clock.set(house.clock.wall() + random.below(MINUTE)),
                1 => house
                    .clock
                    .reboot(house.clock.wall() + random.below(SECOND)),
                2..6 => house.clock.pass(random.below(in_micros(length) / 8 + 2)),
                _ => {}
            }
            if random.below(3) == 0 && !open.is_empty() {
                let at = usize::try_from(random.below(open.len() as u64)).unwrap();
                let (one, other) = open.swap_remove(at);
                script.settle(one, Settle::RpcError);
                store.settle(other, Settle::RpcError);
                continue;
            }
            let uses: Vec<LimitUse> = (0..1 + random.below(3))
                .map(|_| LimitUse {
                    amount: random.below(size),
                    ..limit(
                        size * (1 + random.below(4)),
                        windows[usize::try_from(random.below(4)).unwrap()],
                    )
                })
                .collect();
            let earlier = if random.below(4) == 0 {
                open.pop()
            } else {
                None
            };
            let got = match &earlier {
                Some((one, other)) => (
                    script.replace(one, &caller(), "start", &uses),
                    store.replace(other, &caller(), "start", &uses),
                ),
                None => (reserve(&script, &uses), reserve(&store, &uses)),
            };
            match got {
                (Ok(one), Ok(other)) => {
                    let stamps = |reservation: &Reservation| {
                        let charges = reservation.in_store.iter();
                        charges.map(|charge| charge.stamp).collect::<Vec<_>>()
                    };
                    assert_eq!(stamps(&one), stamps(&other), "{place}");
                    open.push((one, other));
                }
                (Err(Refused::Reached(one)), Err(Refused::Reached(other))) => {
                    assert_eq!(one, other, "{place}: {uses:?}");
                    open.extend(earlier);
                }
                (one, other) => panic!("{place}: {one:?}\n{other:?}"),
            }
        }
    }
}

#[test]
fn nothing_is_left_behind() {
    let _directory = with_redis(&[]);
    let (limits, caller) = (shared(None), caller());
    for (window, least, most) in [
        (PER_MINUTE, 0, 60),
        (Window::Calendar(Unit::Day), 0, 24 * 3_600),
        (Window::Sliding(minutes(30)), 29 * 60, 30 * 60),
        (Window::Bucket(minutes(50)), 9 * 60, 10 * 60),
    ] {
        ask(&["FLUSHALL"]);
        let one = limit(5, window);
        let reservation = recovered(&limits, &one).unwrap();
        let keys = ask(&["KEYS", "*"]);
        let key = keys
            .lines()
            .find(|line| line.starts_with("capwarden:{limits}:"));
        let left = ask(&["PTTL", key.unwrap()]);
        let left: u64 = left.trim_start_matches(':').trim().parse().unwrap();
        assert!(
            (least * 1_000..=most * 1_000 + 1).contains(&left),
            "{window:?}: {left}"
        );
        limits.settle(reservation, Settle::NotMade);
        let counters = limits.counters(&caller, "start");
        assert_eq!(counters.count("starts", Scope::Grant, window), 0);
        // Its own time may be ahead by what the question took to get there: so long it is kept.
        let gone = (0..1_000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            ask(&["DBSIZE"]) == ":0\r\n"
        });
        assert!(gone, "{window:?}: nothing counts");
    }
}

#[test]
fn other_hosts_count_their_own_users_only() {
    use crate::limits::key::{Realm, key_of};
    let realm = |host: &str| Realm {
        secret: [0; 16],
        host: Some(host.to_owned()),
    };
    let grant = Caller {
        grant: Some("laptop".into()),
        ..caller()
    };
    let by_address = Caller {
        server: "http://127.0.0.1:8000/mcp".into(),
        ..caller()
    };
    for (caller, scope, same) in [
        (&caller(), Scope::Grant, false),
        (&grant, Scope::Grant, true),
        (&grant, Scope::Principal, false),
        (&caller(), Scope::Principal, false),
        (&caller(), Scope::Server, true),
        (&caller(), Scope::Tool, true),
        (&by_address, Scope::Server, false),
        (&by_address, Scope::Tool, false),
        (&by_address, Scope::Global, true),
    ] {
        let of = |host| key_of(&realm(host), caller, "start", "c", scope, PER_MINUTE);
        assert_eq!(of("here"), of("here"));
        assert_eq!(of("here") == of("there"), same, "{scope:?} {caller:?}");
    }
}

#[test]
fn server_that_goes_and_comes_back() {
    let _directory = with_redis(&["--appendonly", "yes", "--appendfsync", "always"]);
    let limits = shared(None);
    let ten = limit(10, Window::Sliding(minutes(60)));
    assert!(admitted(&limits, &ten));
    // It is restarted, while nobody asks or while somebody looks whether it is there.
    change(|redis| redis.restart().unwrap());
    assert!(recovered(&limits, &ten).is_ok());
    change(|redis| redis.kill().unwrap());
    let why = refusal(&limits, &ten);
    assert!(why.starts_with("the counters cannot be reached: "), "{why}");
    refusal(&limits, &ten);
    let counters = caller();
    let counters = limits.counters(&counters, "start");
    assert_eq!(counters.count("starts", Scope::Grant, ten.window), u64::MAX);
    change(|redis| redis.restart().unwrap());
    assert!(recovered(&limits, &ten).is_ok());
    assert_eq!(counters.count("starts", Scope::Grant, ten.window), 3);
    assert!(
        limits
            .unavailable()
            .load(std::sync::atomic::Ordering::Relaxed)
            >= 2
    );
}

#[test]
fn server_that_is_slow_is_not_waited_for_and_what_it_was_asked_counts() {
    let _directory = with_redis(&[]);
    let limits = shared(None);
    let ten = limit(10, Window::Sliding(minutes(60)));
    let reservation = reserve(&limits, from_ref(&ten)).unwrap();
    signal(Signal::STOP);
    assert_eq!(
        refusal(&limits, &ten),
        "the counters cannot be reached: no answer within 250 ms"
    );
    // Given back while nobody listens: it stays counted.
    limits.settle(reservation, Settle::NotMade);
    assert_eq!(
        refusal(&limits, &ten),
        "the counters cannot be reached: no answer within 250 ms"
    );
    signal(Signal::CONT);
    assert!(recovered(&limits, &ten).is_ok());
    // The first, the one that nobody waited for (unless it was known before that nobody would answer),
    // and the last.
    assert!((7..=8).contains(&burst(&limits, &ten)));
}

/// While one waits for its counters, others go on.
#[test]
fn slow_server_holds_nobody_else_up() {
    let _directory = with_redis(&[]);
    let limits = shared(None);
    let ten = limit(10, PER_MINUTE);
    assert!(reserve(&limits, from_ref(&ten)).is_ok());
    signal(Signal::STOP);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (none, caller) = (Reservation::default(), caller());
        let waiting = limits.replace_async(&none, &caller, "start", from_ref(&ten));
        let mut turns = 0;
        let others = async {
            loop {
                tokio::time::sleep(LIMIT / 50).await;
                turns += 1;
            }
        };
        tokio::select! {
            refused = waiting => {
                let Err(Refused::Unavailable(LimitsError::Remote(error))) = refused else {
                    panic!("{refused:?}");
                };
                assert!(matches!(error, RemoteError::Unreachable(_) | RemoteError::Slow), "{error}");
            }
            () = others => {}
        }
        assert!(turns > 5, "{turns}");
    });
    signal(Signal::CONT);
}

#[test]
fn conditions_see_shared_counters() {
    let _directory = with_redis(&[]);
    let limits = shared(None);
    let (three, caller) = (limit(3, Window::Calendar(Unit::Day)), caller());
    assert!(admitted(&limits, &three));
    assert!(admitted(&limits, &three));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let decided = limits.deciding(&caller, "start", |counters| {
            // The second is looked at because of the first.
            match counters.count("starts", Scope::Grant, three.window) {
                2 => (2, counters.count("other", Scope::Global, three.window)),
                other => (other, 99),
            }
        });
        assert_eq!(decided.await.unwrap(), (2, 0));
    });
    change(|redis| redis.kill().unwrap());
    let decided = runtime.block_on(limits.deciding(&caller, "start", |counters| {
        counters.count("starts", Scope::Grant, three.window)
    }));
    assert!(decided.is_err(), "{decided:?}");
}

#[test]
fn server_that_refuses_admits_nothing() {
    let _directory = with_redis(&[]);
    let limits = shared(None);
    let ten = limit(10, PER_MINUTE);
    assert!(admitted(&limits, &ten));
    // Its memory of scripts is emptied: the call does not notice.
    ask(&["SCRIPT", "FLUSH"]);
    assert!(admitted(&limits, &ten));
    ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let why = refusal(&limits, &ten);
    assert!(why.contains("OOM"), "{why}");
    ask(&["CONFIG", "SET", "maxmemory", "0"]);
    assert!(recovered(&limits, &ten).is_ok());
    // Somebody wrote something else where a counter was.
    let keys = ask(&["KEYS", "*"]);
    let key = keys
        .lines()
        .find(|line| line.starts_with("capwarden"))
        .unwrap();
    for garbage in ["", "1", "2 c 60000000 1 1 a 0 0", "1 c 60000000 x 1 a 0 0"] {
        ask(&["SET", key, garbage]);
        let why = refusal(&limits, &ten);
        assert!(why.contains("is no counter"), "{garbage:?}: {why}");
    }
    ask(&["DEL", key]);
    ask(&["LPUSH", key, "a"]);
    assert!(refusal(&limits, &ten).contains("WRONGTYPE"));
    ask(&["DEL", key]);
    // It becomes another's replica, and then takes its place.
    ask(&["REPLICAOF", "127.0.0.1", "1"]);
    let why = refusal(&limits, &ten);
    assert!(
        why.contains("READONLY") || why.contains("MASTERDOWN"),
        "{why}"
    );
    assert!(refusal(&limits, &ten).starts_with("the counters cannot be reached: "));
    ask(&["REPLICAOF", "NO", "ONE"]);
    assert!(recovered(&limits, &ten).is_ok());
}

#[test]
fn password_is_shown_and_never_told() {
    let _directory = with_redis(&["--requirepass", "open sesame"]);
    let ten = limit(10, PER_MINUTE);
    assert!(refusal(&shared(None), &ten).contains("NOAUTH"));
    let why = refusal(&shared(Some("wrong")), &ten);
    assert_eq!(
        why,
        "the counters cannot be reached: it does not accept the password"
    );
    let right = shared(Some("open sesame"));
    assert!(admitted(&right, &ten));
    assert!(!format!("{right:?}").contains("sesame"));
}

#[test]
fn what_could_be_forgotten_is_told() {
    let _directory = with_redis(&["--maxmemory-policy", "volatile-ttl"]);
    let at = REDIS.with_borrow(|redis| redis.as_ref().unwrap().address());
    let server = Server {
        address: at.parse().unwrap(),
        password: None,
    };
    let looked = server.look().unwrap();
    assert!(looked.version.starts_with("Redis ") || looked.version.starts_with("Valkey "));
    let [eviction, disk] = looked.warnings.as_slice() else {
        panic!("{looked:?}");
    };
    assert!(
        eviction.contains("maxmemory-policy volatile-ttl"),
        "{eviction}"
    );
    assert!(disk.contains("appendonly yes"), "{disk}");
}

/// Whatever else listens there, nothing is admitted, and nothing takes longer or more memory than
/// it may.
#[test]
fn what_is_no_redis_admits_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let ten = limit(10, PER_MINUTE);
    for (number, answer) in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"$99999999999\r\n",
        b"*4294967296\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        b"$5\r\nabcdefgh",
        b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n",
        b":1\r\n:1\r\n:1\r\n",
        b"$-1\r\n$-1\r\n$-1\r\n",
        b"$7\r\nrole:\xff\xfe\r\n$0\r\n\r\n*0\r\n",
        b"\r\n",
        b"",
    ]
    .into_iter()
    .enumerate()
    {
        let path = directory.path().join(number.to_string());
        let listener = UnixListener::bind(&path).unwrap();
        let speaking = thread::spawn(move || {
            use std::io::Write as _;
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(answer);
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        });
        let limits = Limits::shared(Server {
            address: format!("redis+unix://{}", path.display()).parse().unwrap(),
            password: None,
        })
        .unwrap();
        let refused = reserve(&limits, from_ref(&ten));
        assert!(
            matches!(refused, Err(Refused::Unavailable(_))),
            "{}: {refused:?}",
            String::from_utf8_lossy(answer)
        );
        drop(limits);
        speaking.join().unwrap();
    }
}

#[test]
fn addresses() {
    use crate::limits::Address;
    for (text, shown) in [
        ("redis://10.0.0.1", "redis://10.0.0.1:6379"),
        ("redis://10.0.0.1:7000/", "redis://10.0.0.1:7000"),
        (
            "redis://me@counters.example:7000/3",
            "redis://counters.example:7000/3",
        ),
        ("valkey://[::1]:7000", "redis://[::1]:7000"),
        ("redis://[fd00::1]/2", "redis://[fd00::1]:6379/2"),
        (
            "redis+unix:///run/r@x/s.sock",
            "redis+unix:///run/r@x/s.sock",
        ),
        (
            "redis+unix://me@/run/s.sock?db=4",
            "redis+unix:///run/s.sock?db=4",
        ),
    ] {
        let address: Address = text.parse().unwrap();
        assert_eq!(address.to_string(), shown);
        assert_eq!(
            address.user.as_deref(),
            text.contains("me@").then_some("me")
        );
    }
    for (text, why) in [
        ("redis://:secret@10.0.0.1", "--counters-password-file"),
        ("redis://me:secret@10.0.0.1", "--counters-password-file"),
        (
            "redis+unix://:secret@/run/s.sock",
            "--counters-password-file",
        ),
        ("rediss://10.0.0.1", "no TLS"),
        ("10.0.0.1:6379", "redis://HOST:PORT/DB"),
        ("redis://", "redis://HOST:PORT/DB"),
        ("redis://host:0", "redis://HOST:PORT/DB"),
        ("redis://host:x", "redis://HOST:PORT/DB"),
        ("redis://[::1", "redis://HOST:PORT/DB"),
        ("redis://[::1]x", "redis://HOST:PORT/DB"),
        ("redis://host/x", "no database's number"),
        ("redis+unix://run/s.sock", "written from the root"),
        ("redis+unix:///run/s.sock?x=1", "not known"),
    ] {
        let error = text.parse::<Address>().unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
