package account

import (
	"maps"
	"sync"
	"sync/atomic"
)

// A table is a map that only grows, up to a bound. It is copied to add a value,
// so that finding one neither locks nor allocates. Its zero value is empty and
// has no room. It is safe for concurrent use.
type table[K comparable, V any] struct {
	room   int32                    // how many values may be added by find
	used   atomic.Int32             // how many were
	values atomic.Pointer[map[K]*V] // never written to, but replaced

	mu sync.Mutex // held to replace values
}

// all returns every value by its key, for reading alone.
func (t *table[K, V]) all() map[K]*V {
	if values := t.values.Load(); values != nil {
		return *values
	}
	return nil
}

// find returns the value of key. If there is none it adds the one that create
// makes, and if there is no room for that it returns nil.
func (t *table[K, V]) find(key K, create func() (K, *V)) *V {
	if v := t.all()[key]; v != nil || t.used.Load() >= t.room {
		return v
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if v := t.all()[key]; v != nil || t.used.Load() >= t.room {
		return v
	}
	t.used.Add(1)
	return t.addLocked(create)
}

// keep adds the values of keys that have none, whether there is room for find or not,
// as long as there are no more than most in all. It copies the map once.
func (t *table[K, V]) keep(keys []K, most int, create func(K) *V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	more := make(map[K]*V, len(t.all())+len(keys))
	maps.Copy(more, t.all())
	for _, key := range keys {
		if len(more) == most {
			break
		}
		if more[key] == nil {
			more[key] = create(key)
		}
	}
	t.values.Store(&more)
}

func (t *table[K, V]) addLocked(create func() (K, *V)) *V {
	key, v := create()
	more := make(map[K]*V, len(t.all())+1)
	maps.Copy(more, t.all())
	more[key] = v
	t.values.Store(&more)
	return v
}
