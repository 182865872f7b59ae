//! A provider's site: a register whose system hands over each change until it is taken, and the producer agent.
//!
//! Owns what survives a crash of the machine, and the site's own account of what was taken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use platform::client::Client;
use platform::clock;
use platform::identity::Identity;
use platform::retry::Retry;
use platform::segments::memory_disk::MemoryDisk;
use platform::simulation::random::Random;
use producer_agent::agent::Agent;
use producer_agent::image::{ImageError, ImageStore};
use producer_agent::outbox::lock;
use producer_agent::send::sender::{SendError, Sent};
use producer_agent::source::file::source::FileSource;
use producer_agent::source::format::TableFormat;
use producer_agent::source::http::RequestSource;
use producer_agent::source::http::items::ItemResult;
use producer_agent::start::{self, StartParts, Started};
use producer_agent::take::guard::Guard;
use schemas::avro::schema::AvroSchema;
use schemas::ids::{AgentId, ChannelName};
use schemas::promise::Promise;
use schemas::time::Millis;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::acknowledged;
use crate::disk::{Backup, Images};
use crate::dropped::{Dropping, Writing};
use crate::fault::Sky;
use crate::oracle::Oracle;
use crate::register::{self, Change, Register};

/// Changes that are handed over at once, at most.
const GROUP: u64 = 12;
/// One of so many groups is dropped as a file.
const DROPPED: u64 = 5;
/// The longest pause between two groups, in milliseconds.
const GAP: u64 = 4_000;
/// A compared register may change as a whole: no person is there to accept it.
const NO_GUARD: Guard =
    Guard { max_delete_percent: 100, max_change_percent: 1_000, max_parked_percent: None };

/// The site's own account.
#[derive(Debug, Default)]
pub struct Account {
    /// The register and its story.
    pub register: Register,
    /// Changes that were handed over; whether they were taken is not known.
    in_flight: Vec<Change>,
    /// The machine stopped while they were in flight.
    is_doubtful: bool,
    /// Changes that may be missing, as another of the same key replaces them: key and position in its story.
    pub optional: BTreeSet<(String, usize)>,
    /// A backup was restored: changes that it lacked are known from the comparison only.
    pub is_restored: bool,
    /// A person has restored a backup, and hands over the whole register as the handbook says: changes that the copy
    /// lacks may never have reached the log, and then only the register has them.
    pub is_to_be_compared: bool,
    /// Changes to be made yet.
    left: usize,
    /// Set last, when everything was handed over.
    pub freshness: Option<Millis>,
    pub is_drained: bool,
}

pub struct Provider {
    pub id: AgentId,
    pub channel: ChannelName,
    pub disk: MemoryDisk,
    pub images: Images,
    identity: Identity,
    files: PathBuf,
    oracle: Arc<Oracle>,
    sky: Arc<Sky>,
    account: Mutex<Account>,
    random: Mutex<Random>,
}

/// What a provider's site is made of.
pub struct ProviderParts<'p> {
    pub id: AgentId,
    pub channel: ChannelName,
    pub identity: Identity,
    /// The folder of registers.
    pub files: &'p Path,
    pub oracle: Arc<Oracle>,
    pub sky: Arc<Sky>,
    /// How many changes it makes.
    pub changes: usize,
    /// The seed of its register.
    pub seed: u64,
}

impl Provider {
    /// A site that has made no change yet.
    pub fn new(parts: ProviderParts<'_>) -> Self {
        let ProviderParts { id, channel, identity, files, oracle, sky, changes, seed } = parts;
        Self {
            id,
            files: files.join(format!("{channel}.csv")),
            channel,
            disk: MemoryDisk::new(),
            images: Images::default(),
            identity,
            oracle,
            sky,
            account: Mutex::new(Account { left: changes, ..Account::default() }),
            random: Mutex::new(Random::new(seed)),
        }
    }

    pub fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine stopped: changes under way may be taken or not.
    pub fn went_down(&self) {
        self.account().is_doubtful = true;
    }

    /// Restores the folder from a copy; a person sees to it that the register is compared.
    pub fn go_on_from(&self, copy: Backup) {
        copy.restore(&self.disk, &self.images);
        let mut account = self.account();
        (account.is_restored, account.is_to_be_compared) = (true, true);
    }

    fn below(&self, bound: u64) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).below(bound)
    }

    /// The site at work, until its machine stops.
    pub async fn live(self: Arc<Self>) {
        let outcome = self.work().await;
        if self.disk.has_stopped() {
            // The process ended with its disk: its machine follows.
            return;
        }
        if let Err(error) = outcome {
            self.oracle.broken(Promise::AcceptedOnce, format!("{}: the agent gave up: {error:#}", self.id));
        }
    }

    async fn work(&self) -> anyhow::Result<()> {
        let client = Client::new("https://dit", &self.identity)?;
        let schema = AvroSchema::parse(register::SCHEMA)?;
        let images = || -> Result<Box<dyn ImageStore>, ImageError> { Ok(Box::new(self.images.clone())) };
        let parts = StartParts {
            id: &self.id,
            channel: &self.channel,
            schema: &schema,
            dir: Path::new("/agent"),
            disk: Arc::new(self.disk.clone()),
            images: &images,
            take_over: false,
        };
        let mut retry = Retry::default();
        loop {
            let told = |why: &start::Reopened| self.oracle.note(|| format!("{} reopens: {why}", self.id));
            let Started { agent, mut sender, is_reopened } = match start::start(&parts, &client, &told).await
            {
                Ok(started) => started,
                Err(error) if error.is_retryable() => {
                    sleep(retry.next_wait()).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            retry.reset();
            let is_restored = std::mem::take(&mut self.account().is_to_be_compared);
            if is_reopened || is_restored {
                self.compare(&agent)?;
            }
            if is_reopened {
                start::end_comparison(parts.disk.as_ref(), parts.dir)?;
            }
            let sent = sender.sent();
            let acknowledged = acknowledged::check(&self.oracle, &self.channel, &agent, sent.clone());
            tokio::select! {
                biased;
                outcome = sender.run(agent.appended()) => match outcome {
                    Err(SendError::Doubt(doubt)) => self.oracle.note(|| format!("{}: {doubt}", self.id)),
                    outcome => return outcome.context("sending has stopped"),
                },
                outcome = acknowledged => return outcome,
                outcome = self.hand_over(&agent, sent) => return outcome,
            }
        }
    }

    /// Compares the whole register with what the agent knows of it.
    fn compare(&self, agent: &Agent) -> anyhow::Result<()> {
        std::fs::write(&self.files, self.account().register.as_file())?;
        let report = agent.take(&FileSource::open(&self.files, &TableFormat::default())?, NO_GUARD, true)?;
        anyhow::ensure!(report.taken && report.parked.is_empty(), "not compared: {report:?}");
        // The file has the changes under way, too.
        self.account().give_up_order();
        self.taken();
        Ok(())
    }

    async fn hand_over(&self, agent: &Agent, mut sent: watch::Receiver<Sent>) -> anyhow::Result<()> {
        while let Some(group) = self.next_group() {
            if !self.account().is_doubtful && self.below(DROPPED) == 0 {
                self.drop_register(agent)?;
                self.taken();
                sleep(Duration::from_millis(self.below(GAP))).await;
                continue;
            }
            let items = group.iter().map(|change| Ok(register::item(change))).collect();
            for result in agent.take_singles(&RequestSource::new(items), || Ok(()))? {
                anyhow::ensure!(!matches!(result, ItemResult::Refused { .. }), "refused: {result:?}");
            }
            self.taken();
            sleep(Duration::from_millis(self.below(GAP))).await;
        }
        agent.take_freshness()?;
        self.account().freshness = Some(clock::now());
        let end = lock(&agent.outbox()).next_position();
        sent.wait_for(|sent| sent.acknowledged >= end).await.context("sending has stopped")?;
        self.account().is_drained = true;
        std::future::pending().await
    }

    /// Drops the present register as a file, with the changes under way, and those that come while it is taken.
    fn drop_register(&self, agent: &Agent) -> anyhow::Result<()> {
        let dir = self.files.with_extension("drop");
        // Files that were there when the machine stopped have only changes that are still under way.
        drop(std::fs::remove_dir_all(&dir));
        let how = Writing::of(self.below(8));
        let text = {
            let mut account = self.account();
            let group = account.in_flight.clone();
            account.expect_last_of_each(&group);
            account.register.as_file()
        };
        let mut next = || {
            let group = self.draw_group();
            let mut account = self.account();
            account.expect_last_of_each(&group);
            account.in_flight.extend(group);
            account.register.as_file()
        };
        Dropping { dir: &dir, agent, guard: NO_GUARD, sky: &self.sky }.register(&text, how, &mut next)
    }

    /// Marks the changes under way as taken.
    fn taken(&self) {
        let mut account = self.account();
        account.in_flight.clear();
        account.is_doubtful = false;
    }

    /// The next changes, or those that were under way; `None` when all were taken.
    fn next_group(&self) -> Option<Vec<Change>> {
        let mut account = self.account();
        if !account.in_flight.is_empty() {
            if account.is_doubtful {
                // Only the last of each key: an older one would come after a younger.
                account.give_up_order();
                let last: BTreeMap<_, _> = account.in_flight.drain(..).collect();
                account.in_flight = last.into_iter().collect();
            }
            return Some(account.in_flight.clone());
        }
        drop(account);
        let group = self.draw_group();
        self.account().in_flight.clone_from(&group);
        Some(group).filter(|group| !group.is_empty())
    }

    /// New changes; none when all were made.
    fn draw_group(&self) -> Vec<Change> {
        let mut account = self.account();
        let count = usize::try_from(1 + self.below(GROUP)).unwrap_or(1).min(account.left);
        account.left -= count;
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        (0..count).map(|_| account.register.change(&mut random)).collect()
    }
}

impl Account {
    /// The changes under way may be taken in part: others of their keys may replace them.
    fn give_up_order(&mut self) {
        let mut back: BTreeMap<&str, usize> = BTreeMap::new();
        for (key, _) in self.in_flight.iter().rev() {
            let behind = back.entry(key).or_default();
            *behind += 1;
            let made = self.register.story.get(key).map_or(0, Vec::len);
            self.optional.insert((key.clone(), made.saturating_sub(*behind)));
        }
    }

    /// A file has only the last row of each key: earlier changes under way may be missing, and so may a row that came
    /// and went.
    fn expect_last_of_each(&mut self, group: &[Change]) {
        let mut back: BTreeMap<&str, usize> = BTreeMap::new();
        for (key, _) in group {
            *back.entry(key).or_default() += 1;
        }
        for (key, count) in back {
            let story = self.register.story.get(key).map(Vec::as_slice).unwrap_or_default();
            let first = story.len().saturating_sub(count);
            let was_there =
                first.checked_sub(1).and_then(|index| story.get(index)).is_some_and(Option::is_some);
            let is_there = story.last().is_some_and(Option::is_some);
            let required = if is_there || was_there { story.len().saturating_sub(1) } else { story.len() };
            self.optional.extend((first..required).map(|index| (key.to_owned(), index)));
        }
    }

    /// How the log's story of a key differs from the changes that were made, if it does.
    pub fn differs(&self, key: &str, counted: &[Option<crate::register::Row>]) -> Option<String> {
        let story = self.register.story.get(key).map(Vec::as_slice).unwrap_or_default();
        // How many of the counted changes can be explained by those made so far.
        let mut explained = BTreeSet::from([0]);
        for (index, made) in story.iter().enumerate() {
            let may_lack = self.is_restored || self.optional.contains(&(key.to_owned(), index));
            let counts = |at: &usize| counted.get(*at) == Some(made);
            let next = explained.iter().filter(|at| counts(at)).map(|at| at + 1);
            let next: BTreeSet<usize> = next.chain(explained.iter().copied().filter(|_| may_lack)).collect();
            explained = next;
        }
        let is_explained = explained.contains(&counted.len());
        (!is_explained).then(|| format!("{key}: the log has {counted:?}, but made was {story:?}"))
    }
}
