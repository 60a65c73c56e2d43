package store

// Bounds of the names in a Request. They bound keys, messages and what a counter
// costs in memory.
const (
	// MaxNamespaceBytes is how long a namespace may be.
	MaxNamespaceBytes = 128
	// MaxIdentifierBytes is how long an identifier may be.
	MaxIdentifierBytes = 1024
)

// OncePrefix begins the names of counters that let something be done once. Nobody else
// can name them, as they are not UTF-8 text. A store that has little room for an
// identifier may forget the oldest of them.
const OncePrefix = "\xffonce:"
