//! Drawing a program from a seed, and shrinking one that fails.

use std::ops::RangeInclusive;

use proptest::{
    strategy::{BoxedStrategy, Just, Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::{Divergence, Program, Session, Step, program};

type Tree = Box<dyn ValueTree<Value = Step>>;

/// A program that can still shrink.
pub(super) struct Draft {
    steps: Vec<Tree>,
}

impl Draft {
    pub(super) fn draw(seed: u64, steps: &RangeInclusive<usize>) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let step: BoxedStrategy<Step> = program::step().boxed();
        let length =
            steps.clone().new_tree(&mut runner).map_or(*steps.end(), |tree| tree.current());
        let steps = (0..length).filter_map(|_| step.new_tree(&mut runner).ok()).collect();
        Self { steps }
    }

    pub(super) fn program(&self) -> Program {
        Program { steps: self.steps.iter().map(|tree| tree.current()).collect() }
    }

    /// Leaves out steps, large chunks first, then makes those that remain simpler, as long as the
    /// program fails. It may fail in another way than at first.
    pub(super) async fn shrink(
        mut self,
        session: &mut Session,
        mut divergence: Divergence,
    ) -> (Program, Divergence) {
        self.steps.truncate(divergence.step);
        loop {
            let before = self.steps.len();
            self.leave_out(session, &mut divergence).await;
            self.simplify(session, &mut divergence).await;
            if self.steps.len() == before {
                return (self.program(), divergence);
            }
        }
    }

    async fn leave_out(&mut self, session: &mut Session, divergence: &mut Divergence) {
        let mut chunk = self.steps.len().div_ceil(2);
        while chunk > 0 {
            let mut start = 0;
            while start < self.steps.len() {
                let end = (start + chunk).min(self.steps.len());
                let out: Vec<_> = self.steps.drain(start..end).collect();
                match session.run(&self.program()).await {
                    Err(other) => *divergence = other,
                    Ok(()) => {
                        self.steps.splice(start..start, out);
                        start = end;
                    }
                }
            }
            chunk /= 2;
        }
    }

    async fn simplify(&mut self, session: &mut Session, divergence: &mut Divergence) {
        for place in 0..self.steps.len() {
            let mut smallest = self.steps[place].current();
            let mut moved = self.steps[place].simplify();
            while moved {
                moved = match session.run(&self.program()).await {
                    Err(other) => {
                        *divergence = other;
                        smallest = self.steps[place].current();
                        self.steps[place].simplify()
                    }
                    Ok(()) => self.steps[place].complicate(),
                };
            }
            self.steps[place] = Box::new(Just(smallest));
        }
    }
}
