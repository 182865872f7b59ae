//! Files as people's programs bring them: each is read once and whole, or not at all.

use super::*;

const NOW: DropSettings = DropSettings { still_for: SignedDuration::ZERO, marker: Marker::None };

fn folder(settings: DropSettings) -> (tempfile::TempDir, DropFolder) {
    let dir = tempfile::tempdir().unwrap();
    let folder = DropFolder::open(dir.path(), settings).unwrap();
    (dir, folder)
}

fn names(folder: &mut DropFolder) -> Vec<String> {
    let name = |ready: Ready| ready.path.file_name().unwrap().to_string_lossy().into_owned();
    folder.ready().unwrap().into_iter().map(name).collect()
}

/// After two looks.
fn ready(folder: &mut DropFolder) -> Vec<String> {
    folder.ready().unwrap();
    names(folder)
}

fn take(folder: &DropFolder, path: &Path) -> Option<Taking> {
    let file = Ready { path: path.to_owned(), is_accepted: false };
    folder.reading(&file)().unwrap()
}

fn report(is_full: bool) -> serde_json::Value {
    serde_json::json!({"is_full": is_full})
}

#[test]
fn a_renamed_file_is_whole_and_a_written_one_stands_still_first() {
    let settings = DropSettings { still_for: SignedDuration::from_hours(1), marker: Marker::None };
    let (dir, mut folder) = folder(settings);
    std::fs::write(dir.path().join("written.csv"), "a").unwrap();
    std::fs::write(dir.path().join("renamed.csv.part"), "a").unwrap();
    std::fs::rename(dir.path().join("renamed.csv.part"), dir.path().join("renamed.csv")).unwrap();
    std::fs::write(dir.path().join("old.csv"), "a").unwrap();
    let old = std::fs::File::options().write(true).open(dir.path().join("old.csv")).unwrap();
    old.set_modified(std::time::SystemTime::now() - Duration::from_hours(2)).unwrap();
    assert!(names(&mut folder).is_empty(), "seen for the first time");
    assert_eq!(names(&mut folder), ["old.csv", "renamed.csv"]);
    // A file that may be older holds up those after it in the order of names, though they are whole.
    std::fs::write(dir.path().join("p.csv"), "a").unwrap();
    assert_eq!(names(&mut folder), ["old.csv"]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_rename_is_noticed_and_only_a_second_look_is_missing() {
    let settings = DropSettings { still_for: SignedDuration::from_hours(1), marker: Marker::None };
    let (dir, mut folder) = folder(settings);
    let notices = folder.notices();
    assert!(!folder.has_newcomers());
    let bring = |name: &str| {
        let part = dir.path().join("x.part");
        std::fs::write(&part, "a").unwrap();
        std::fs::rename(part, dir.path().join(name)).unwrap();
    };
    for name in ["a.csv", "b.csv"] {
        bring(name);
        tokio::time::timeout(Duration::from_secs(60), notices.next()).await.expect("the system tells");
        assert!(!names(&mut folder).contains(&name.to_owned()), "seen for the first time");
        assert!(folder.has_newcomers());
        // A change of its rights between the two looks is no change of the file.
        let path = dir.path().join(name);
        let mut rights = std::fs::metadata(&path).unwrap().permissions();
        rights.set_readonly(true);
        std::fs::set_permissions(&path, rights).unwrap();
        names(&mut folder);
        assert!(names(&mut folder).contains(&name.to_owned()));
    }
}

#[test]
fn an_older_register_is_held() {
    let (dir, mut folder) = folder(NOW);
    let mut follow = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, "a").unwrap();
        let taking = take(&folder, &path).unwrap();
        let follows = folder.follows(&taking, false);
        folder.remember(&taking, true).unwrap();
        taking.leave();
        follows
    };
    assert_eq!(follow("r-2026-11-27.csv"), Follows::Next);
    assert_eq!(follow("r-2026-11-27.csv"), Follows::Next, "the same name again");
    assert_eq!(follow("r-2026-11-30.csv"), Follows::Next);
    assert!(matches!(follow("r-2026-11-28.csv"), Follows::Older(why) if why.contains("undo newer changes")));
    assert_eq!(follow("other.csv"), Follows::Next);
}

#[test]
fn a_file_that_changes_is_not_ready_and_goes_where_its_fate_is() {
    let (dir, mut folder) = folder(NOW);
    let file = dir.path().join("b.csv");
    std::fs::write(&file, "a").unwrap();
    assert!(names(&mut folder).is_empty(), "seen for the first time");
    std::fs::write(&file, "ab").unwrap();
    assert!(names(&mut folder).is_empty(), "it grew");
    assert_eq!(names(&mut folder), ["b.csv"]);
    let taking = take(&folder, &file).unwrap();
    folder.name_parked(&taking, Fate::Held, &[]).unwrap();
    folder.settle(taking, Fate::Held, &report(true)).unwrap();
    assert!(!file.exists() && dir.path().join("held/b.csv").exists() && ready(&mut folder).is_empty());
    assert_eq!(folder.last_full(), None);
    let accepted = DropFolder::accept(dir.path(), "b.csv").unwrap();
    assert_eq!(folder.ready().unwrap(), [Ready { path: accepted, is_accepted: true }]);
    let unknown = DropFolder::accept(dir.path(), "b.csv").unwrap_err();
    assert!(unknown.to_string().contains("held are: none"), "{unknown}");
    assert!(DropFolder::accept(dir.path(), "../b.csv").is_err());
}

#[test]
fn what_came_in_its_place_stays_and_what_was_read_is_taken() {
    let (dir, mut folder) = folder(NOW);
    let file = dir.path().join("register.csv");
    std::fs::write(&file, "first").unwrap();
    let taking = take(&folder, &file).unwrap();
    std::fs::write(dir.path().join("next"), "second").unwrap();
    std::fs::rename(dir.path().join("next"), &file).unwrap();
    folder.settle(taking, Fate::Taken, &report(true)).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("taken/register.csv")).unwrap(), "first");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "second");
    // A file that grew without a rename is read again, too.
    let taking = take(&folder, &file).unwrap();
    std::fs::write(&file, "second and more").unwrap();
    folder.settle(taking, Fate::Taken, &report(true)).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("taken/register.csv")).unwrap(), "second");
    let taking = take(&folder, &file).unwrap();
    folder.settle(taking, Fate::Taken, &report(true)).unwrap();
    assert!(!file.exists());
    assert_eq!(std::fs::read_dir(dir.path().join("taking")).unwrap().count(), 0);
}

#[test]
fn what_is_not_to_be_read_is_left_alone() {
    let (dir, mut folder) = folder(NOW);
    for name in ["a.csv.part", "~$a.csv", "a.csv~", ".a.csv", "a.csv.tmp"] {
        std::fs::write(dir.path().join(name), "a").unwrap();
    }
    std::fs::create_dir(dir.path().join("more.csv")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link.csv")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("pipe.csv"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert!(ready(&mut folder).is_empty());
    assert!(folder.said.iter().any(|line| line.contains("link.csv: it is a symbolic link")));
    assert!(folder.said.iter().any(|line| line.contains("pipe.csv: it is no ordinary file")));
    assert!(
        take(&folder, &dir.path().join("link.csv")).is_none()
            && take(&folder, &dir.path().join("pipe.csv")).is_none()
    );
}

#[test]
fn a_mark_says_that_a_file_is_whole() {
    let (dir, mut folder) = folder(DropSettings { still_for: SignedDuration::ZERO, marker: Marker::Sha256 });
    let file = dir.path().join("a.csv");
    std::fs::write(&file, "abc").unwrap();
    assert!(ready(&mut folder).is_empty());
    let mark = dir.path().join("a.csv.sha256");
    std::fs::write(&mark, "").unwrap();
    assert!(ready(&mut folder).is_empty(), "the mark is still being made");
    std::fs::write(&mark, format!("{}  a.csv\n", "0".repeat(64))).unwrap();
    assert_eq!(ready(&mut folder), ["a.csv"]);
    let file = Ready { path: file, is_accepted: false };
    let taking = folder.reading(&file)().unwrap().unwrap();
    assert!(folder.check_mark(&file, &taking).unwrap_err().contains("not whole"));
    taking.leave();
    std::fs::write(&mark, "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD *a.csv\n")
        .unwrap();
    let taking = folder.reading(&file)().unwrap().unwrap();
    assert_eq!(folder.check_mark(&file, &taking), Ok(()));
    folder.settle(taking, Fate::Taken, &report(true)).unwrap();
    assert!(dir.path().join("taken/a.csv.sha256").exists() && !mark.exists());
}

#[test]
fn change_files_follow_each_other() {
    let (dir, mut folder) = folder(NOW);
    let put = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, "a").unwrap();
        path
    };
    let follow = |folder: &mut DropFolder, name: &str| {
        let taking = take(folder, &put(name)).unwrap();
        let follows = folder.follows(&taking, true);
        if follows == Follows::Next {
            folder.remember(&taking, false).unwrap();
            folder.settle(taking, Fate::Taken, &report(false)).unwrap();
        } else {
            taking.leave();
        }
        follows
    };
    for name in ["c-8.csv", "c-9.csv"] {
        assert_eq!(follow(&mut folder, name), Follows::Next);
    }
    assert!(matches!(follow(&mut folder, "c-9.csv"), Follows::Older(_)));
    std::fs::remove_file(dir.path().join("c-9.csv")).unwrap();
    assert_eq!(follow(&mut folder, "c-11.csv"), Follows::Waits);
    assert!(ready(&mut folder).is_empty(), "it is not read again and again");
    assert_eq!(folder.waiting(), 1);
    assert_eq!(follow(&mut folder, "c-10.csv"), Follows::Next);
    assert_eq!(ready(&mut folder), ["c-11.csv"]);
}

#[test]
fn only_the_last_register_is_compared_with_again_and_an_older_one_is_not_accepted() {
    let (dir, mut folder) = folder(NOW);
    let put = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, name).unwrap();
        path
    };
    let held = take(&folder, &put("old.csv")).unwrap();
    folder.settle(held, Fate::Held, &report(true)).unwrap();
    // The clock must have moved on.
    let begun = clock::now();
    while clock::now() == begun {
        std::thread::yield_now();
    }
    let taking = take(&folder, &put("c.csv")).unwrap();
    folder.forget_last().unwrap();
    assert_eq!(folder.last_full(), None);
    folder.remember(&taking, true).unwrap();
    folder.settle(taking, Fate::Taken, &report(true)).unwrap();
    assert_eq!(folder.last_full(), Some(dir.path().join("taken/c.csv")));
    let refused = DropFolder::accept(dir.path(), "old.csv").unwrap_err().to_string();
    assert!(refused.contains("c.csv was taken after it was held"), "{refused}");
    put("c.csv");
    assert_eq!(folder.last_full(), None, "a newer one of its name waits");
    std::fs::remove_file(dir.path().join("c.csv")).unwrap();
    let changes = take(&folder, &put("changes.csv")).unwrap();
    folder.remember(&changes, false).unwrap();
    assert_eq!(folder.last_full(), None, "older than what is there");
}

#[test]
fn single_changes_say_more_than_what_was_dropped_before_them() {
    let (dir, mut folder) = folder(NOW);
    let singles = Singles::beside(dir.path());
    let put = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, name).unwrap();
        path
    };
    let tick = || {
        let begun = clock::now();
        while clock::now() == begun {
            std::thread::yield_now();
        }
    };
    let held = take(&folder, &put("held.csv")).unwrap();
    folder.settle(held, Fate::Held, &report(true)).unwrap();
    let mut took = |name: &str, meanwhile: &dyn Fn()| {
        let taking = take(&folder, &put(name)).unwrap();
        folder.forget_last().unwrap();
        tick();
        meanwhile();
        folder.remember(&taking, true).unwrap();
        folder.settle(taking, Fate::Taken, &report(true)).unwrap();
        folder.last_full()
    };
    assert!(took("a.csv", &|| ()).is_some());
    tick();
    singles.about_to_take().unwrap();
    assert_eq!(DropFolder::open(dir.path(), NOW).unwrap().last_full(), None, "it would turn them back");
    tick();
    assert!(took("b.csv", &|| ()).is_some(), "what comes behind them has them in it");
    assert_eq!(took("c.csv", &|| singles.about_to_take().unwrap()), None, "they came while it was read");
    tick();
    singles.about_to_take().unwrap();
    let refused = DropFolder::accept(dir.path(), "held.csv").unwrap_err().to_string();
    assert!(refused.contains("a single change was taken after it was held"), "{refused}");
}

#[test]
fn a_mark_goes_with_the_file_that_a_person_accepts() {
    let settings = DropSettings { still_for: SignedDuration::ZERO, marker: Marker::Done };
    let (dir, mut folder) = folder(settings);
    for name in ["x.csv", "x.csv.done"] {
        std::fs::write(dir.path().join(name), "a").unwrap();
    }
    DropFolder::accept(dir.path(), "x.csv").unwrap();
    assert!(dir.path().join("accepted/x.csv.done").is_file() && !dir.path().join("x.csv.done").exists());
    assert_eq!(ready(&mut folder), ["x.csv"]);
    let taking = take(&folder, &dir.path().join("accepted/x.csv")).unwrap();
    folder.settle(taking, Fate::Taken, &report(true)).unwrap();
    assert!(dir.path().join("taken/x.csv.done").is_file());
    // The next file of its name has no mark yet.
    std::fs::write(dir.path().join("x.csv"), "b").unwrap();
    assert!(ready(&mut folder).is_empty());
}

/// Many single changes at once, while a file is taken: what is remembered stays whole.
#[test]
fn what_is_remembered_is_changed_by_one_at_a_time() {
    let (dir, mut folder) = folder(NOW);
    let path = dir.path().join("full-1.csv");
    std::fs::write(&path, "a").unwrap();
    let taking = take(&folder, &path).unwrap();
    folder.remember(&taking, true).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| Singles::beside(dir.path()).about_to_take().unwrap()));
        }
        for _ in 0..50 {
            folder.forget_last().unwrap();
            folder.remember(&taking, true).unwrap();
        }
    });
    assert_eq!(last::read(dir.path()).full, "full-1.csv");
}
