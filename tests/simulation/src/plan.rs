//! The plan of one seed: what goes wrong, when, and for how long; what the operator does.
//!
//! Owns the drawing. Everything is drawn before the run begins, so that a plan is a function of its seed.

use platform::simulation::random::Random;

/// How many routers there are.
pub const ROUTERS: u64 = 2;
/// How many providers there are.
pub const PROVIDERS: u64 = 3;
/// How many consumers there are.
pub const CONSUMERS: u64 = 5;
/// How many partitions a channel has.
pub const PARTITIONS: u32 = 2;
/// How many changes are made, at least.
pub const CHANGES: usize = 2_001;
/// How many faults are planned.
pub const FAULTS: usize = 31;
/// How many kinds of faults there are.
const KINDS: u64 = 18;
/// Faults begin within so many milliseconds.
pub const SPAN: u64 = 210_000;
/// Younger records stay in the log and the state, in milliseconds: longer than any snapshot takes here.
pub const YOUNG: u64 = 60_000;
/// How long everything works before a fault that needs one working router, in milliseconds.
const SOUND: u64 = 5_000;
/// The longest that something is down, cut or paused, in milliseconds.
const LONGEST: u64 = 45_000;

/// A machine of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    /// A router, by number.
    Router(usize),
    /// A provider, by number.
    Provider(usize),
    /// A consumer, by number.
    Consumer(usize),
}

/// What a crash destroys besides unsynced writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    Nothing,
    Images,
    /// Everything since the backup.
    SinceBackup,
    /// A provider's whole folder.
    Folder,
}

/// What a router reads late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Late {
    /// Control and leases: the channels' events come in time.
    Control,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Crash(Machine, Loss),
    /// A site's disk stops after so many writes; its machine a little later.
    StopDisk(Machine, u32),
    /// A machine is started again.
    Start(Machine),
    /// A machine stands still.
    Pause(Machine),
    Resume(Machine),
    /// A router cannot reach the log.
    CutLog(usize),
    RepairLog(usize),
    /// A router's appends do not arrive; its reads of control and leases, or all its reads, come late.
    Unheard(usize, Late),
    Heard(usize),
    /// A site cannot reach a router.
    CutSite(Machine, usize),
    RepairSite(Machine, usize),
    /// Small faults become likely.
    Storm,
    Calm,
    /// A machine's wall clock is off by milliseconds.
    Clock(Machine, i64),
    /// A provider's folder is copied.
    Backup(usize),
    /// What the states needed long ago is deleted.
    DeleteOldState,
    /// The oldest records are removed from the logs.
    Expire,
    /// A foreign record is appended to a channel's log.
    Poison(usize, u32),
    /// The operator declares another version of an agreement.
    Amend(usize),
    /// The operator revokes an agreement.
    Revoke(usize),
}

/// What happens, in order of time (milliseconds since the beginning).
pub fn draw(random: &mut Random) -> Vec<(u64, Action)> {
    let mut plan = Vec::new();
    for number in 0..FAULTS {
        let at = 5_000 + random.below(SPAN);
        let until = at + 200 + random.below(LONGEST);
        // One of each kind first, so that every seed has each kind.
        let kind = u64::try_from(number).ok().filter(|kind| *kind < KINDS);
        let kind = kind.unwrap_or_else(|| random.below(KINDS));
        plan.extend(fault(kind, at, until, random));
    }
    plan.push((revocation(&plan, random), Action::Revoke(2)));
    plan.extend(unheard_revocation(4, random));
    plan.push((random.below(SPAN), Action::Amend(3)));
    plan.sort();
    plan
}

/// The time of a revocation: in the second half, most often while a router is in trouble.
fn revocation(plan: &[(u64, Action)], random: &mut Random) -> u64 {
    let is_weak = |action: &Action| {
        matches!(
            action,
            Action::Pause(Machine::Router(_)) | Action::CutLog(_) | Action::Unheard(..) | Action::Storm
        )
    };
    let weak: Vec<u64> = plan.iter().filter(|(_, action)| is_weak(action)).map(|(at, _)| *at).collect();
    match weak.iter().filter(|at| **at > SPAN / 2).nth(pick(random, 2)) {
        Some(at) => at + random.below(6_000),
        None => SPAN / 2 + random.below(SPAN / 2),
    }
}

/// An agreement is revoked while a router still has the lease of its last beat, and cannot hear of it; the other
/// router, and everything else, works.
fn unheard_revocation(number: usize, random: &mut Random) -> Vec<(u64, Action)> {
    let router = pick(random, ROUTERS);
    let at = SPAN / 2 + random.below(SPAN / 2);
    let revoked = at + random.below(1_000);
    let until = revoked + 200 + random.below(LONGEST);
    let mut plan = vec![
        (at - SOUND, Action::Calm),
        (at, Action::Unheard(router, Late::Control)),
        (revoked, Action::Revoke(number)),
        (until, Action::Heard(router)),
    ];
    plan.extend(sound_routers(at - SOUND));
    plan
}

/// Ends the routers' faults.
fn sound_routers(at: u64) -> impl Iterator<Item = (u64, Action)> {
    let routers = (0..ROUTERS).filter_map(|number| usize::try_from(number).ok());
    routers.flat_map(move |router| {
        let machine = Machine::Router(router);
        let ends = [
            Action::RepairLog(router),
            Action::Heard(router),
            Action::Start(machine),
            Action::Resume(machine),
        ];
        ends.map(|action| (at, action))
    })
}

/// A provider's folder is restored from a copy while a router holds back events that were sent since. The restored
/// agent sees the log as the copy knows it, and its events may follow those that were sent before.
fn haunted(provider: usize, router: usize, at: u64, random: &mut Random) -> Vec<(u64, Action)> {
    let crash = at + 500 + random.below(6_000);
    let start = crash + 100 + random.below(1_000);
    let machine = Machine::Provider(provider);
    let others = (0..ROUTERS).filter_map(|number| usize::try_from(number).ok()).filter(|one| *one != router);
    let only_way = others.flat_map(|other| {
        [(at, Action::CutSite(machine, other)), (crash, Action::RepairSite(machine, other))]
    });
    let mut plan = vec![
        (at - SOUND, Action::Calm),
        (at, Action::Backup(provider)),
        (at, Action::Unheard(router, Late::Control)),
        (crash, Action::Crash(machine, Loss::SinceBackup)),
        (start, Action::Start(machine)),
        (start + random.below(6_000), Action::Heard(router)),
    ];
    plan.extend(only_way);
    plan.extend(sound_routers(at - SOUND));
    plan
}

/// A new machine replaces a provider whose events were not all sent. Soon after, it loses the images that it has made,
/// or is replaced by a copy of the first machine.
fn replaced(
    provider: usize,
    at: u64,
    until: u64,
    down: Vec<(u64, Action)>,
    random: &mut Random,
) -> Vec<(u64, Action)> {
    let machine = Machine::Provider(provider);
    let routers = (0..ROUTERS).filter_map(|number| usize::try_from(number).ok());
    let no_way = routers.flat_map(|router| {
        [(at - 4_000, Action::CutSite(machine, router)), (at, Action::RepairSite(machine, router))]
    });
    let again = until + 500 + random.below(20_000);
    let loss = if random.below(2) == 0 { Loss::Images } else { Loss::SinceBackup };
    let mut plan = vec![
        (at - 1, Action::Backup(provider)),
        (again, Action::Crash(machine, loss)),
        (again + random.below(2_000), Action::Start(machine)),
    ];
    plan.extend(no_way);
    plan.extend(down);
    plan
}

/// A router is cut off from the log until retention has removed what follows its last read.
fn outlived(router: usize, at: u64, random: &mut Random) -> Vec<(u64, Action)> {
    let expire = at + YOUNG + 5_000 + random.below(20_000);
    let repair = expire + random.below(4_000);
    vec![(at, Action::CutLog(router)), (expire, Action::Expire), (repair, Action::RepairLog(router))]
}

fn pick(random: &mut Random, count: u64) -> usize {
    usize::try_from(random.below(count)).unwrap_or(0)
}

fn fault(kind: u64, at: u64, until: u64, random: &mut Random) -> Vec<(u64, Action)> {
    let router = pick(random, ROUTERS);
    let provider = pick(random, PROVIDERS);
    let consumer = pick(random, CONSUMERS);
    let site = match random.below(2) {
        0 => Machine::Provider(provider),
        _ => Machine::Consumer(consumer),
    };
    let early = at - random.below(3_000);
    let writes = u32::try_from(random.below(9)).unwrap_or(0);
    let by_disk = random.below(2) == 0;
    let down = |machine, loss| {
        let mut plan = vec![(at, Action::Crash(machine, loss)), (until, Action::Start(machine))];
        if by_disk {
            plan.push((early, Action::StopDisk(machine, writes)));
        }
        plan
    };
    match kind {
        0 | 1 => down(Machine::Router(router), Loss::Nothing),
        2 => down(Machine::Provider(provider), Loss::Nothing),
        3 | 4 => down(Machine::Consumer(consumer), Loss::Nothing),
        5 => vec![(at, Action::CutLog(router)), (until, Action::RepairLog(router))],
        6 => vec![(at, Action::CutSite(site, router)), (until, Action::RepairSite(site, router))],
        7 => vec![(at, Action::Storm), (until, Action::Calm)],
        8 => {
            let off = i64::try_from(random.below(7_200_000)).unwrap_or(0) - 3_600_000;
            let machine = if random.below(2) == 0 { Machine::Router(router) } else { site };
            vec![(at, Action::Clock(machine, off)), (until, Action::Clock(machine, 0))]
        }
        9 => {
            let loss = if random.below(3) == 0 { Loss::Images } else { Loss::SinceBackup };
            let mut plan = down(Machine::Provider(provider), loss);
            plan.push((at.saturating_sub(1_000 + random.below(40_000)), Action::Backup(provider)));
            plan
        }
        10 => {
            let machine = if random.below(3) == 0 { site } else { Machine::Router(router) };
            vec![(at, Action::Pause(machine)), (until, Action::Resume(machine))]
        }
        11 => vec![(at, Action::DeleteOldState)],
        12 => vec![(at, Action::Expire)],
        13 => {
            let late = if random.below(2) == 0 { Late::Control } else { Late::All };
            vec![(at, Action::Unheard(router, late)), (until, Action::Heard(router))]
        }
        14 => haunted(provider, router, at, random),
        15 => outlived(router, at, random),
        16 => replaced(provider, at, until, down(Machine::Provider(provider), Loss::Folder), random),
        _ => vec![(at, Action::Poison(provider, u32::try_from(router).unwrap_or(0)))],
    }
}
