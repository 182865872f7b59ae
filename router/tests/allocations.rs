//! No stage of a block's way through a router allocates for each event: what is made is made for each block.
//!
//! A block of many events may take some more allocations than one of few, as vectors grow; far fewer than its events.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test says what it expects by failing; the figures are small"
)]

mod stages;

use stages::Block;

const FEW: usize = 50;
/// About as many of these rows as a block holds.
const MANY: usize = 550;

/// Allocations of a stage.
fn counted(stage: impl FnOnce()) -> u64 {
    allocation_counter::measure(stage).count_total
}

#[test]
fn nothing_is_allocated_for_each_event() {
    let allocations = |events: usize| {
        let mut block = Block::of(events);
        let [stored, again] = [block.stored(), block.stored()];
        let fold = block.fold();
        [
            ("judge a batch", counted(|| assert_eq!(block.judge_batch(), 1))),
            ("count", counted(|| block.count(fold, &stored))),
            ("locate", counted(|| assert_eq!(block.locate(again), events))),
            ("match", counted(|| assert_eq!(block.match_items(), events))),
            ("frame", counted(|| assert!(block.frame() > events * 50))),
        ]
    };
    for ((stage, few), (_, many)) in allocations(FEW).into_iter().zip(allocations(MANY)) {
        println!("{stage}: {few} allocations for {FEW} events, {many} for {MANY}");
        let more = many.saturating_sub(few);
        assert!(more * 20 < (MANY - FEW) as u64, "{stage}: {few} for {FEW} events, {many} for {MANY}");
    }
}

#[test]
fn an_allocation_for_each_event_would_be_seen() {
    let each = |events: usize| counted(|| (0..events).for_each(|event| drop(event.to_string())));
    assert!(each(MANY) - each(FEW) >= (MANY - FEW) as u64);
}
