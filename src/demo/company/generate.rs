//! Made-up registers: companies with municipalities in their real proportions, and a municipality's trading places.
//!
//! Owns what happens on the days that the demo plays: companies open, close, change and move, and on 1 July 2021
//! municipalities are merged. Seeded; names are made of words and are no real company's.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;

/// Municipality and its weight: inhabitants in thousands (Central Statistical Bureau, 2021, rounded).
const MUNICIPALITIES: [(&str, u64); 16] = [
    ("Rīga", 615),
    ("Daugavpils", 80),
    ("Liepāja", 67),
    ("Jelgava", 55),
    ("Jūrmala", 50),
    ("Ventspils", 33),
    ("Rēzekne", 27),
    ("Ogres novads", 34),
    ("Ikšķiles novads", 10),
    ("Lielvārdes novads", 10),
    ("Ķeguma novads", 5),
    ("Mārupes novads", 24),
    ("Babītes novads", 12),
    ("Cēsu novads", 17),
    ("Amatas novads", 5),
    ("Priekuļu novads", 7),
];

/// Municipalities merged into others on 1 July 2021 (Law on Administrative Territories and Populated Areas, 2020).
pub(super) const MERGERS: [(&str, &str); 6] = [
    ("Ikšķiles novads", "Ogres novads"),
    ("Lielvārdes novads", "Ogres novads"),
    ("Ķeguma novads", "Ogres novads"),
    ("Babītes novads", "Mārupes novads"),
    ("Amatas novads", "Cēsu novads"),
    ("Priekuļu novads", "Cēsu novads"),
];

const FIRST: [&str; 12] = [
    "Ābele",
    "Bērzs",
    "Čiekurs",
    "Dzērve",
    "Ēnas",
    "Gaiļezers",
    "Ķirsis",
    "Ļaudona",
    "Ņega",
    "Šķūnis",
    "Ūdensroze",
    "Žagata",
];
const SECOND: [&str; 8] =
    ["būve", "serviss", "transports", "pārtika", "mežs", "tehnika", "nams", "konsultācijas"];
const TRADE: [&str; 4] = ["kiosks", "tirgus", "kafejnīca", "autoveikals"];

/// Every telephone number begins with this, and nothing else does: a leaked number is recognised by it.
pub(super) const PHONE_PREFIX: &str = "+371 ";
/// Every owner's code begins with this, and nothing else does.
pub(super) const OWNER_PREFIX: &str = "OWNER-";
/// The columns of the register of companies.
pub(super) const COMPANY_COLUMNS: [&str; 7] =
    ["regcode", "name", "municipality", "address", "phone", "founded", "owner"];
/// The columns of the register of trading places.
pub(super) const PLACE_COLUMNS: [&str; 5] = ["place", "company", "address", "trade", "status"];
/// The column with the operation of each row of a change file.
pub(super) const OPERATION: &str = "op";

/// SplitMix64: the same companies on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.next(u64::try_from(length).unwrap_or(1))).unwrap_or(0)
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        let index = self.index(from.len());
        from.get(index).copied().unwrap_or("")
    }

    fn municipality(&mut self) -> &'static str {
        let total: u64 = MUNICIPALITIES.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.next(total);
        for (name, weight) in MUNICIPALITIES {
            if drawn < weight {
                return name;
            }
            drawn -= weight;
        }
        "Rīga"
    }

    fn address(&mut self) -> String {
        format!("{} iela {}", self.pick(&FIRST), self.next(120) + 1)
    }

    fn phone(&mut self) -> String {
        format!("{PHONE_PREFIX}2{:07}", self.next(10_000_000))
    }
}

#[derive(Clone)]
struct Company {
    code: u64,
    name: String,
    municipality: String,
    address: String,
    phone: String,
    founded: String,
    owner: String,
}

impl Company {
    fn cells(&self) -> [String; 7] {
        let Self { code, name, municipality, address, phone, founded, owner } = self.clone();
        [code.to_string(), name, municipality, address, phone, founded, owner]
    }
}

/// The register of companies in its present state.
pub(super) struct Companies {
    random: Random,
    all: Vec<Company>,
    made: u64,
}

impl Companies {
    /// So many companies, from a seed.
    pub(super) fn new(seed: u64, count: u64) -> Self {
        let mut companies = Self { random: Random(seed), all: Vec::new(), made: 0 };
        (0..count).for_each(|_| companies.open());
        companies
    }

    fn open(&mut self) {
        let random = &mut self.random;
        let first = random.pick(&FIRST);
        let second = random.pick(&SECOND);
        let number = self.made;
        let year = 1991 + random.next(30);
        let month = random.next(12) + 1;
        let day = random.next(28) + 1;
        self.all.push(Company {
            code: 40_003_000_000 + number * 17,
            name: format!("SIA \"{first} {second} {number}\""),
            municipality: random.municipality().to_owned(),
            address: random.address(),
            phone: random.phone(),
            founded: format!("{year}-{month:02}-{day:02}"),
            owner: format!("{OWNER_PREFIX}{:07}", random.next(10_000_000)),
        });
        self.made += 1;
    }

    /// A hundredth of them close, open, move, or get another telephone.
    pub(super) fn ordinary_day(&mut self) {
        for _ in 0..self.all.len() / 100 {
            let index = self.random.index(self.all.len());
            match self.random.next(4) {
                0 if index < self.all.len() => drop(self.all.swap_remove(index)),
                1 => self.open(),
                2 => self.moves(index),
                _ => {
                    let phone = self.random.phone();
                    if let Some(changing) = self.all.get_mut(index) {
                        changing.phone = phone;
                    }
                }
            }
        }
        // Every day surely has one move: out of a municipality that is watched.
        if let Some(index) = self.all.iter().position(|company| company.municipality == "Ogres novads") {
            self.moves(index);
        }
    }

    fn moves(&mut self, index: usize) {
        let from = self.all.get(index).map(|company| company.municipality.clone());
        let new = self.random.municipality();
        let new = if from.as_deref() == Some(new) { "Rīga" } else { new };
        if let Some(moving) = self.all.get_mut(index) {
            new.clone_into(&mut moving.municipality);
        }
    }

    /// A municipality becomes part of another.
    pub(super) fn merge(&mut self, from: &str, into: &str) {
        for company in self.all.iter_mut().filter(|company| company.municipality == from) {
            into.clone_into(&mut company.municipality);
        }
    }

    /// Writes the whole register.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        write(path, &COMPANY_COLUMNS, self.all.iter().map(Company::cells))
    }

    /// Gives one company of a municipality another address, and writes a change file of one row.
    pub(super) fn write_one_change(&mut self, municipality: &str, path: &Path) -> anyhow::Result<()> {
        let start = self.random.index(self.all.len());
        let order = (start..self.all.len()).chain(0..start);
        let is_there =
            |index: &usize| self.all.get(*index).is_some_and(|company| company.municipality == municipality);
        let index = order.into_iter().find(is_there).context("the municipality has no company")?;
        let address = self.random.address();
        let company = self.all.get_mut(index).context("no such company")?;
        // Never the address that it has: the row would not change.
        company.address = format!("{address}-{}", company.address.len());
        let row = [vec!["u".to_owned()], company.cells().to_vec()].concat();
        write(path, &[&[OPERATION], COMPANY_COLUMNS.as_slice()].concat(), [row].into_iter())
    }
}

/// A municipality's register of trading places in its present state.
pub(super) struct TradingPlaces {
    random: Random,
    all: Vec<[String; 5]>,
}

impl TradingPlaces {
    /// So many places, from a seed.
    pub(super) fn new(seed: u64, count: u64) -> Self {
        let mut random = Random(seed ^ 0x0123_4567_89ab_cdef);
        let all = (0..count)
            .map(|number| {
                let status = if random.next(5) == 0 { "closed" } else { "open" };
                let company = 40_003_000_000 + random.next(1_000) * 17;
                let trade = random.pick(&TRADE).to_owned();
                [format!("T-{number:04}"), company.to_string(), random.address(), trade, status.to_owned()]
            })
            .collect();
        Self { random, all }
    }

    /// Some open, some close.
    pub(super) fn ordinary_day(&mut self) {
        for _ in 0..self.all.len() / 10 {
            let index = self.random.index(self.all.len());
            if let Some([.., status]) = self.all.get_mut(index) {
                *status = if status == "open" { "closed" } else { "open" }.to_owned();
            }
        }
    }

    /// Writes the whole register.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        write(path, &PLACE_COLUMNS, self.all.iter().cloned())
    }
}

fn write<R: AsRef<[String]>>(
    path: &Path,
    header: &[&str],
    rows: impl Iterator<Item = R>,
) -> anyhow::Result<()> {
    let mut text = header.join(";");
    text.push('\n');
    for row in rows {
        let cells: Vec<String> =
            row.as_ref().iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
        writeln!(text, "{}", cells.join(";"))?;
    }
    std::fs::write(path, &text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(seed: u64) -> [String; 3] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("day.csv");
        let read = |companies: &Companies| {
            companies.write(&path).unwrap();
            std::fs::read_to_string(&path).unwrap()
        };
        let mut companies = Companies::new(seed, 3_000);
        let first = read(&companies);
        companies.ordinary_day();
        let second = read(&companies);
        MERGERS.iter().for_each(|(from, into)| companies.merge(from, into));
        [first, second, read(&companies)]
    }

    #[test]
    fn one_seed_gives_one_register_and_the_merged_are_gone() {
        let first = days(7);
        assert_eq!(first, days(7));
        assert_ne!(first, days(8));
        assert!(first[1].contains("\"Babītes novads\"") && first[0] != first[1]);
        assert!(!first[2].contains("\"Ķeguma novads\""));
    }

    #[test]
    fn a_single_change_changes_something() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.csv");
        let mut companies = Companies::new(7, 500);
        let before = companies.all.clone();
        companies.write_one_change("Rīga", &path).unwrap();
        let changed = before.iter().zip(&companies.all).filter(|(a, b)| a.address != b.address).count();
        assert_eq!(changed, 1);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("op;regcode;") && text.contains("\"u\";\"4000"), "{text}");
    }
}
