//! How much of memory may be pinned, so that there is always room to run.

/// How many blocks may be pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinBudget {
    /// By all tenants together.
    pub all: usize,
    /// By one tenant; blocks of shared prefixes do not count.
    pub tenant: usize,
    /// Windowed parts, by all tenants together.
    pub windowed: usize,
}

impl From<usize> for PinBudget {
    fn from(all: usize) -> Self {
        PinBudget { all, tenant: all, windowed: usize::MAX }
    }
}

impl PinBudget {
    /// Checks `wanted` further blocks, `own` of them under the tenant's scope, beside those pinned by all and by it.
    pub(super) fn check(
        self,
        (wanted, own): (usize, usize),
        (all, tenant): (usize, usize),
    ) -> Result<(), PinLimit> {
        let (left, own_left) = (self.all.saturating_sub(all), self.tenant.saturating_sub(tenant));
        if own > own_left && own_left < left {
            return Err(PinLimit { wanted: own, left: own_left, share: true });
        }
        if wanted > left { Err(PinLimit { wanted, left, share: false }) } else { Ok(()) }
    }

    /// Checks `wanted` further windowed parts beside those pinned.
    pub(super) fn check_windowed(self, wanted: usize, pinned: usize) -> Result<(), PinLimit> {
        let left = self.windowed.saturating_sub(pinned);
        if wanted > left { Err(PinLimit { wanted, left, share: false }) } else { Ok(()) }
    }
}

/// A pin that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinLimit {
    /// Blocks that it would have added.
    pub wanted: usize,
    /// Blocks that may still be pinned.
    pub left: usize,
    /// Whether the tenant's share is what does not suffice.
    pub share: bool,
}
