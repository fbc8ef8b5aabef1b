use super::*;

const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn limits() -> Limits {
    Limits {
        source: Rate { burst: 3, forget_every: Duration::from_secs(10) },
        user: Rate { burst: 6, forget_every: Duration::from_secs(5) },
        capacity: 100,
    }
}

#[expect(clippy::disallowed_methods, reason = "a test must start somewhere")]
fn start() -> (Instant, Limiter) {
    (Instant::now(), Limiter::new(limits()))
}

fn stranger(n: u32) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::from(0x0a00_0000 + n))
}

#[test]
fn a_source_that_fails_is_slowed_down_whatever_user_it_tries() {
    let (now, mut limiter) = start();

    for user in ["alice", "bob", "carol"] {
        assert_eq!(limiter.check(now, HOME, user), Ok(()));
    }

    let refused = limiter.check(now, HOME, "dave").unwrap_err();
    assert_eq!(refused.retry_after, Duration::from_secs(10));
    assert_eq!(refused.to_string(), "too many failed attempts; try again in 11 s");
    assert!(limiter.check(now, stranger(1), "dave").is_ok(), "another source is another matter");
}

#[test]
fn failures_are_forgotten_one_by_one() {
    let (now, mut limiter) = start();
    for _ in 0..3 {
        assert!(limiter.check(now, HOME, "alice").is_ok());
    }

    assert!(limiter.check(now + Duration::from_millis(9_999), HOME, "alice").is_err());
    assert!(limiter.check(now + Duration::from_secs(10), HOME, "alice").is_ok());
    assert!(limiter.check(now + Duration::from_secs(10), HOME, "alice").is_err());
    assert!(limiter.check(now + Duration::from_secs(3600), HOME, "alice").is_ok());
}

#[test]
fn being_refused_makes_nothing_worse() {
    let (now, mut limiter) = start();
    for _ in 0..1_000 {
        let _ = limiter.check(now, HOME, "alice");
    }

    assert!(limiter.check(now + Duration::from_secs(10), HOME, "alice").is_ok());
}

#[test]
fn success_costs_nothing_however_often() {
    let (now, mut limiter) = start();

    for _ in 0..1_000 {
        assert_eq!(limiter.check(now, HOME, "alice"), Ok(()));
        limiter.succeeded(now, HOME, "alice");
    }
}

#[test]
fn success_does_not_wipe_out_failures_with_other_users() {
    let (now, mut limiter) = start();
    let mut guesses = 0;

    for _ in 0..10 {
        if limiter.check(now, HOME, "mallory").is_ok() {
            limiter.succeeded(now, HOME, "mallory");
        }
        guesses += usize::from(limiter.check(now, HOME, "alice").is_ok());
    }

    assert_eq!(guesses, 3);
}

#[test]
fn many_sources_together_are_slowed_down_by_the_users_limit() {
    let (now, mut limiter) = start();

    let admitted = (0..50).filter(|n| limiter.check(now, stranger(*n), "alice").is_ok()).count();

    assert_eq!(admitted, 6);
    assert!(limiter.check(now, stranger(99), "bob").is_ok(), "another user is another matter");
}

#[test]
fn strangers_cannot_keep_a_user_out_of_a_place_the_user_has_been() {
    let (now, mut limiter) = start();
    limiter.check(now, HOME, "alice").unwrap();
    limiter.succeeded(now, HOME, "alice");

    for second in 0..600 {
        let now = now + Duration::from_secs(second);
        for n in 0..50 {
            let _ = limiter.check(now, stranger(n), "alice");
        }
        if second % 60 == 0 {
            assert_eq!(limiter.check(now, HOME, "alice"), Ok(()), "locked out after {second} s");
            limiter.succeeded(now, HOME, "alice");
        }
    }
}

#[test]
fn a_known_place_is_no_licence_to_guess() {
    let (now, mut limiter) = start();
    limiter.check(now, HOME, "alice").unwrap();
    limiter.succeeded(now, HOME, "alice");

    let admitted = (0..50).filter(|_| limiter.check(now, HOME, "alice").is_ok()).count();

    assert_eq!(admitted, 3);
}

#[test]
fn to_a_strict_limiter_no_place_is_known() {
    let (now, mut limiter) = (start().0, Limiter::strict(limits()));
    for n in 0..50 {
        assert_eq!(limiter.check(now, stranger(n), "alice"), Ok(()), "success costs nothing");
        limiter.succeeded(now, stranger(n), "alice");
    }

    let admitted = (0..50).filter(|n| limiter.check(now, stranger(*n), "alice").is_ok()).count();

    assert_eq!(admitted, 6);
}

#[test]
fn one_stranger_alone_never_reaches_the_users_limit() {
    let Limits { source, user, .. } = Limits::default();

    assert!(source.burst < user.burst);
    assert!(source.forget_every > user.forget_every);
}

#[test]
fn an_ipv6_host_is_counted_by_its_network_and_a_mapped_address_as_ipv4() {
    let (now, mut limiter) = start();

    let admitted = (0..50_u128)
        .map(|n| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | n << 40)))
        .filter(|source| limiter.check(now, *source, "x").is_ok())
        .count();
    assert_eq!(admitted, 3);

    let next_network = "2001:db8:0:1::1".parse().unwrap();
    assert!(limiter.check(now, next_network, "y").is_ok());
    for n in 0..3 {
        assert!(limiter.check(now, HOME, &format!("z{n}")).is_ok());
    }
    let mapped = "::ffff:192.0.2.7".parse().unwrap();
    assert!(limiter.check(now, mapped, "z").is_err());
}

#[test]
fn memory_is_bounded_and_the_ones_heard_of_last_are_kept() {
    let (now, mut limiter) = start();
    for n in 0..10_000 {
        let user = format!("user{n}");
        if limiter.check(now, stranger(n), &user).is_ok() {
            limiter.succeeded(now, stranger(n), &user);
        }
        if n % 50 == 0 {
            let _ = limiter.check(now, HOME, "alice");
        }
    }

    assert!(limiter.check(now, HOME, "alice").is_err(), "forgotten too early");
    for (entries, order) in [
        (limiter.sources.entries.len(), limiter.sources.order.len()),
        (limiter.users.entries.len(), limiter.users.order.len()),
        (limiter.known.entries.len(), limiter.known.order.len()),
    ] {
        assert!(entries <= 100 && order == entries, "{entries} entries, {order} in order");
    }
}
