//! A ledger that records nothing, for one-off jobs without a store: gates run by hand and tests of adapters.
//!
//! Such jobs must end with their caller: give them `OnLoss::End`, since nobody would find them again.

use async_trait::async_trait;
use orch_domain::ids::JobId;
use orch_domain::job::{JobExit, JobRecord};

use crate::ports::{JobError, JobLedger};

/// Accepts everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnrecordedLedger;

#[async_trait]
impl JobLedger for UnrecordedLedger {
    async fn prepared(&self, _record: JobRecord) -> Result<(), JobError> {
        Ok(())
    }

    async fn going(&self, _job: &JobId) -> Result<(), JobError> {
        Ok(())
    }

    async fn ended(&self, _job: &JobId, _exit: &JobExit) -> Result<(), JobError> {
        Ok(())
    }
}
