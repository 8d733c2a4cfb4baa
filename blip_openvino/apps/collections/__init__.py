"""Images by the thousand: where they come from, how they are worked off, and where their texts go."""
