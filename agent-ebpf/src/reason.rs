//! Why a packet was not counted as one of a flow. Only the last two drop.

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Neither TCP nor UDP, or of a port that nobody watches.
    NotWatched,
    /// TCP or UDP whose headers do not lie in the packet's linear part, or that is a fragment.
    Unparsable,
    /// The owner has used its budget up.
    OverBudget,
    /// The owner goes faster than its rate, or the flow is blocked.
    Limited,
}
