package memory

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
)

// maxNamespaces is how many namespaces that are not favoured are told apart. All
// further ones count as one, so that nobody can make up namespaces until nothing is
// left for the real ones.
const maxNamespaces = 64

// A namespace is known by a number, so that a shard finds what it holds without
// hashing its name.
type namespace struct {
	name     string
	number   uint32
	favoured atomic.Bool
	holdings atomic.Int32 // how many shards have counters of it
	entries  atomic.Int64 // the room of its logs in all shards
}

// namespaces are the namespaces that have a share of their own. It is safe for
// concurrent use. Its lock is taken after a shard's.
type namespaces struct {
	favoured atomic.Pointer[map[string]*namespace] // nobody writes to a map that is here
	others   atomic.Pointer[map[string]*namespace] // the same
	rest     *namespace                            // stands for those that are not told apart

	mu      sync.Mutex   // protects the following, and writing of the pointers above
	all     []*namespace // by number; nil where a number is free
	told    int          // how many of all are not favoured, without rest
	leaving []*namespace // those that no map has any more
}

func newNamespaces() *namespaces {
	n := &namespaces{rest: &namespace{name: "(others)"}}
	n.all = []*namespace{n.rest}
	n.favoured.Store(&map[string]*namespace{})
	n.others.Store(&map[string]*namespace{})
	return n
}

// find returns the namespace called name, or what stands for it. The caller holds the
// lock of a shard until the shard has a holding for it: see forget.
func (n *namespaces) find(name string) *namespace {
	if found := (*n.favoured.Load())[name]; found != nil {
		return found
	}
	others := *n.others.Load()
	if found := others[name]; found != nil {
		return found
	}
	if len(others) >= maxNamespaces {
		return n.rest
	}
	return n.add(name)
}

// add is find for a name that is probably new.
func (n *namespaces) add(name string) *namespace {
	n.mu.Lock()
	defer n.mu.Unlock()
	if found := (*n.favoured.Load())[name]; found != nil {
		return found
	}
	others := *n.others.Load()
	if found := others[name]; found != nil {
		return found
	}
	if n.told >= maxNamespaces {
		return n.rest
	}
	added := n.number(strings.Clone(name)) // it may be part of a large message
	n.told++
	others = maps.Clone(others)
	others[added.name] = added
	n.others.Store(&others)
	return added
}

// number makes a namespace with a free number. The caller holds mu.
func (n *namespaces) number(name string) *namespace {
	added := &namespace{name: name}
	for i, taken := range n.all {
		if taken == nil {
			added.number = uint32(i)
			n.all[i] = added
			return added
		}
	}
	added.number = uint32(len(n.all))
	n.all = append(n.all, added)
	return added
}

// favour makes names the favoured namespaces.
func (n *namespaces) favour(names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before, others := *n.favoured.Load(), maps.Clone(*n.others.Load())
	favoured := make(map[string]*namespace, len(names))
	for _, name := range names {
		switch known, other := before[name], others[name]; {
		case favoured[name] != nil:
		case known != nil:
			favoured[name] = known
		case other != nil:
			delete(others, name)
			favoured[name] = other
			n.told--
		default:
			name = strings.Clone(name)
			favoured[name] = n.number(name)
		}
		favoured[name].favoured.Store(true)
	}
	for name, was := range before {
		if favoured[name] == nil {
			was.favoured.Store(false)
			others[name] = was
			n.told++
		}
	}
	n.favoured.Store(&favoured)
	n.others.Store(&others)
}

// forget hides the namespaces that have no counters, and returns what drops those
// that still have none. In between, the caller takes the lock of each shard once: so
// whoever has found such a namespace before has made a holding for it by then.
func (n *namespaces) forget() (drop func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	others := *n.others.Load()
	for name, idle := range others {
		if idle.holdings.Load() > 0 {
			continue
		}
		if len(others) == len(*n.others.Load()) {
			others = maps.Clone(others)
		}
		delete(others, name)
		n.leaving = append(n.leaving, idle)
	}
	n.others.Store(&others)
	return n.drop
}

func (n *namespaces) drop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	kept := n.leaving[:0]
	for _, idle := range n.leaving {
		if idle.holdings.Load() > 0 {
			kept = append(kept, idle) // until its counters are gone. New ones find another of the same name.
			continue
		}
		n.all[idle.number] = nil
		n.told--
	}
	clear(n.leaving[len(kept):])
	n.leaving = kept
}

// heaviest returns the namespace that has to give up a log: see shares. It returns
// nil if there are no logs.
func (n *namespaces) heaviest() *namespace {
	n.mu.Lock()
	defer n.mu.Unlock()
	var favoured, other *namespace // that have most
	var inFavoured, inOther, inOthers int64
	for _, of := range n.all {
		if of == nil {
			continue
		}
		entries := of.entries.Load()
		if of.favoured.Load() {
			if entries > inFavoured {
				favoured, inFavoured = of, entries
			}
			continue
		}
		inOthers += entries
		if entries > inOther {
			other, inOther = of, entries
		}
	}
	if inOthers > inFavoured {
		return other
	}
	return favoured
}
