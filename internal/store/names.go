package store

// Bounds of the names in a Request. They bound keys, messages and what a counter
// costs in memory.
const (
	// MaxNamespaceBytes is how long a namespace may be.
	MaxNamespaceBytes = 128
	// MaxIdentifierBytes is how long an identifier may be.
	MaxIdentifierBytes = 1024
)
