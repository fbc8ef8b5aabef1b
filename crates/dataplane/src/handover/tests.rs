use std::task::Wake;
use std::thread::{self, Thread};
use std::time::Duration;

use super::*;
use crate::testing::Dice;

const TO: (PortId, ContentKind) = (PortId(7), ContentKind::Packet);

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// So many workers, and how often each was woken.
fn mesh<const COUNT: usize>() -> ([Handover; COUNT], [Arc<Wakes>; COUNT]) {
    let wakes: [Arc<Wakes>; COUNT] = std::array::from_fn(|_| Arc::default());
    let all = Handover::mesh(wakes.iter().map(|wakes| Arc::clone(wakes).into()).collect());
    (all.try_into().unwrap(), wakes)
}

fn post(from: &mut Handover, to: usize, content: &[u8]) -> Result<(), Discard> {
    from.post(to, TO, content.len(), |out| out.copy_from_slice(content))
}

/// Everything that waits.
fn take(at: &mut Handover) -> Vec<Vec<u8>> {
    let mut taken = Vec::new();
    while let Some((source, parcel)) = at.receive() {
        taken.extend(parcel.contents().map(|(.., content)| content.to_vec()));
        at.give_back(source, parcel);
    }
    taken
}

#[test]
fn content_arrives_as_it_was_and_in_order() {
    let ([mut a, mut b], _) = mesh();
    let mut dice = Dice(5);
    let lens = [PARCEL, 0, 1, PARCEL, 65_000, 536, 537].into_iter();
    let contents = lens.chain((0..2000).map(|_| dice.roll(500))).collect::<Vec<_>>();
    let contents = contents.into_iter().map(|len| dice.bytes(len)).collect::<Vec<_>>();

    let mut taken = Vec::new();
    for contents in contents.chunks(100) {
        contents.iter().for_each(|content| post(&mut a, 1, content).unwrap());
        a.publish();
        taken.extend(take(&mut b));
    }

    assert_eq!(taken, contents);
}

#[test]
fn what_no_parcel_holds_is_too_big() {
    let ([mut a, mut b], _) = mesh();

    assert_eq!(post(&mut a, 1, &vec![0; PARCEL + 1]), Err(Discard::TooBig));
    post(&mut a, 1, b"next").unwrap();
    a.publish();

    assert_eq!(take(&mut b), [b"next"]);
}

#[test]
fn a_neighbour_that_takes_nothing_costs_the_others_nothing_and_may_come_back() {
    let ([mut a, mut stuck, mut other], _) = mesh();
    let content = [9; 1000];

    let posted = (0..10_000).filter(|_| post(&mut a, 1, &content).is_ok()).count();
    assert_eq!(posted, MOST_PARCELS * (PARCEL / content.len()));
    assert_eq!(post(&mut a, 1, &content), Err(Discard::NoBuffer));
    post(&mut a, 2, b"through").unwrap();
    a.publish();
    assert_eq!(take(&mut other), [b"through"]);

    assert_eq!(take(&mut stuck).len(), posted);
    assert_eq!(post(&mut a, 1, b"again"), Ok(()));
    a.publish();
    assert_eq!(take(&mut stuck), [b"again"]);
}

#[test]
fn small_packets_do_not_pile_up_without_end_either() {
    let ([mut a, _b], _) = mesh();

    let posted = (0..100_000).filter(|_| post(&mut a, 1, &[]).is_ok()).count();

    assert_eq!(posted, MOST_PARCELS * PIECES);
}

#[test]
fn every_neighbour_has_its_turn() {
    let ([mut a, mut b, mut c], _) = mesh();
    for _ in 0..3 {
        post(&mut a, 2, b"a").unwrap();
        a.publish();
    }
    post(&mut b, 2, b"b").unwrap();
    b.publish();

    assert_eq!(take(&mut c), [b"a", b"b", b"a", b"a"]);
}

#[test]
fn memory_is_bounded_however_many_workers_there_are() {
    for workers in 2..=65 {
        let parcels = parcels_between(workers);
        assert!((FEWEST_PARCELS..=MOST_PARCELS).contains(&parcels));
        assert!((workers - 1) * parcels <= PARCELS_A_WORKER, "{workers} workers");
    }
    assert_eq!((parcels_between(2), parcels_between(1000)), (MOST_PARCELS, FEWEST_PARCELS));
}

#[test]
fn whoever_sleeps_is_woken_once_and_nobody_else() {
    let ([mut a, mut b], [_, wakes]) = mesh();
    let send = |a: &mut Handover| {
        post(a, 1, b"x").unwrap();
        a.publish();
        wakes.0.load(Ordering::Relaxed)
    };

    assert_eq!(send(&mut a), 0, "it is awake");
    assert!(!b.may_sleep(), "something waits");
    take(&mut b);
    assert!(b.may_sleep());
    assert_eq!((send(&mut a), send(&mut a)), (1, 1));
    b.rise();
    take(&mut b);
    assert_eq!(send(&mut a), 1);
    take(&mut b);
    assert!(b.may_sleep());
    assert_eq!(send(&mut a), 2);
}

#[test]
fn nobody_sleeps_over_a_parcel() {
    const PATIENCE: Duration = Duration::from_secs(20);
    const COUNT: usize = 20_000;
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let wakers = [Arc::new(Unpark(thread::current())).into(), Waker::noop().clone()];
    let [mut sleeper, mut sender] = Handover::mesh(wakers.into()).try_into().unwrap();
    let taken = AtomicUsize::new(0);
    // What comes, comes while the sleeper is about to sleep.
    let dawdle = |spins: usize| (0..spins).for_each(|_| std::hint::spin_loop());

    thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice(1);
            for count in 0..COUNT {
                // Each waits for the one before, so no later one can make up for a lost wake-up.
                while taken.load(Ordering::Relaxed) < count {
                    std::hint::spin_loop();
                }
                dawdle(dice.roll(60));
                post(&mut sender, 0, b"x").unwrap();
                sender.publish();
            }
        });
        let mut dice = Dice(2);
        while taken.load(Ordering::Relaxed) < COUNT {
            let longest = [60, 2000][dice.roll(2)];
            dawdle(dice.roll(longest));
            if sleeper.may_sleep() {
                let sleeps_on = || {
                    thread::park_timeout(PATIENCE);
                    let is_asleep = sleeper.bell.is_asleep.load(Ordering::SeqCst);
                    is_asleep && !sleeper.sources[0].filled.is_empty()
                };
                // The first time it may be woken for what it had found before it slept; then the
                // wake-up for what is there now is on its way.
                if sleeps_on() && sleeps_on() {
                    taken.store(COUNT, Ordering::Relaxed);
                    panic!("slept over a parcel");
                }
                sleeper.rise();
            }
            taken.fetch_add(take(&mut sleeper).len(), Ordering::Relaxed);
        }
    });
}

#[test]
fn a_home_belongs_to_the_first_until_it_moves() {
    let home = Home::default();

    assert_eq!(home.worker(), None);
    assert_eq!((home.or_claim(1), home.or_claim(0)), (1, 1));
    assert_eq!(home.worker(), Some(1));
    home.move_to(0);

    assert_eq!((home.or_claim(1), home.or_claim(0)), (0, 0));
}
