//! Runs stages over shards.
//!
//! A stage is a function of one shard that may write files and returns a small summary. The summaries are
//! merged in the order of the shards, so that the result depends neither on the number of threads nor on the
//! order in which shards finish.

use std::sync::mpsc;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::error::Result;
use crate::shard::{Shard, Shards};

/// The number of shards per thread that may begin before the first of them is merged.
const AHEAD: usize = 4;

/// Runs `stage` for every shard on as many threads as there are cores, and passes the summaries to `merge` in
/// the order of the shards. Memory holds as many shards as there are threads, and a few summaries.
///
/// # Errors
/// Returns the first error of a stage or of `merge`. No stage begins after it.
pub fn run<Summary: Send>(
    shards: Shards,
    stage: impl Fn(Shard) -> Result<Summary> + Sync,
    mut merge: impl FnMut(Shard, Summary) -> Result<()>,
) -> Result<()> {
    let threads = rayon::current_num_threads().min(shards.count());
    let turn = Turn::new(shards, threads * AHEAD);
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (send, turn, stage) = (send.clone(), &turn, &stage);
            scope.spawn(move || {
                // The other threads must not wait for this thread if it panics.
                let _end = turn.end_on_panic();
                while let Some(shard) = turn.next() {
                    let done = stage(shard);
                    if done.is_err() {
                        turn.stop();
                    }
                    if send.send((shard, done)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let mut waiting: Vec<Option<Summary>> = shards.all().map(|_| None).collect();
        let mut merged = 0;
        let mut failure = None;
        for (shard, done) in receive {
            match done {
                Ok(summary) => waiting[shard.place()] = Some(summary),
                Err(error) => failure = failure.or(Some(error)),
            }
            while failure.is_none()
                && let Some(summary) = waiting.get_mut(merged).and_then(Option::take)
            {
                failure = merge(shards.shard(merged), summary).err();
                merged += 1;
                turn.merged(merged);
            }
            if failure.is_some() {
                turn.stop();
            }
        }
        failure.map_or(Ok(()), Err)
    })
}

/// The next shard, and whether it may begin.
struct Turn {
    shards: Shards,
    ahead: usize,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    next: usize,
    merged: usize,
    is_over: bool,
}

impl Turn {
    fn new(shards: Shards, ahead: usize) -> Self {
        Self { shards, ahead, state: Mutex::default(), moved: Condvar::new() }
    }

    /// Waits until not too many shards wait to be merged, and returns the next shard, or None if there is
    /// none left.
    fn next(&self) -> Option<Shard> {
        let is_early = |state: &mut State| {
            !state.is_over
                && state.next < self.shards.count()
                && state.next >= state.merged + self.ahead
        };
        let state = self.moved.wait_while(self.state(), is_early);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.is_over || state.next == self.shards.count() {
            return None;
        }
        state.next += 1;
        Some(self.shards.shard(state.next - 1))
    }

    fn merged(&self, merged: usize) {
        self.state().merged = merged;
        self.moved.notify_all();
    }

    fn stop(&self) {
        self.state().is_over = true;
        self.moved.notify_all();
    }

    fn end_on_panic(&self) -> EndOnPanic<'_> {
        EndOnPanic(self)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct EndOnPanic<'a>(&'a Turn);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::error::Error;

    #[test]
    fn summaries_are_merged_in_the_order_of_the_shards() {
        let shards = Shards::new(64).unwrap();
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let stage = |shard: Shard| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Among every eight shards, the earlier ones are slower.
            thread::sleep(Duration::from_micros(500 * (7 - shard.place() as u64 % 8)));
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(shard.place() * 10)
        };
        let mut merged = Vec::new();
        let merge = |shard: Shard, summary| {
            merged.push((shard.place(), summary));
            Ok(())
        };
        run(shards, stage, merge).unwrap();
        assert_eq!(merged, (0..64).map(|i| (i, i * 10)).collect::<Vec<_>>());
        assert!(most.into_inner() <= rayon::current_num_threads());
    }

    #[test]
    fn an_error_ends_all() {
        let shards = Shards::new(1024).unwrap();
        let begun = AtomicUsize::new(0);
        let stage = |shard: Shard| {
            begun.fetch_add(1, Ordering::SeqCst);
            match shard.place() {
                5 => Err(Error::engine("shard 5")("")),
                _ => Ok(()),
            }
        };
        let error = run(shards, stage, |_, ()| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "shard 5 failed");
        assert!(begun.into_inner() < 100);
        let merge = |shard: Shard, ()| match shard.place() {
            3 => Err(Error::engine("merge 3")("")),
            _ => Ok(()),
        };
        assert_eq!(run(shards, |_| Ok(()), merge).unwrap_err().to_string(), "merge 3 failed");
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_does_not_hang() {
        let shards = Shards::new(512).unwrap();
        let stage = |shard: Shard| match shard.place() {
            3 => panic!("a defect"),
            _ => Ok(()),
        };
        run(shards, stage, |_, ()| Ok(())).unwrap();
    }
}
