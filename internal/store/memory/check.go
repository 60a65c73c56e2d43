package memory

import (
	"fmt"
	"math/bits"
)

// Check returns which option is wrong, if New would refuse one.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

// withDefaults returns o with the defaults of its sizes, or which one is wrong.
func (o Options) withDefaults() (Options, error) {
	if o.MaxKeys == 0 {
		o.MaxKeys = DefaultMaxKeys
	}
	if o.MaxKeys < 1 {
		return o, fmt.Errorf("at most %d keys: must be above 0, such as %d", o.MaxKeys, DefaultMaxKeys)
	}
	if o.Shards == 0 {
		o.Shards = DefaultShards
		for o.Shards > 1 && o.MaxKeys/o.Shards < minShardKeys {
			o.Shards /= 2
		}
	}
	if o.Shards < 1 || o.Shards > maxShards || bits.OnesCount(uint(o.Shards)) != 1 {
		return o, fmt.Errorf("%d shards: want a power of two from 1 to %d, such as %d", o.Shards, maxShards, DefaultShards)
	}
	share := o.MaxKeys / o.Shards
	if o.Shards > 1 && share < minShardKeys {
		return o, fmt.Errorf("at most %d keys are too few for %d shards, which should hold %d each:"+
			" allow %d keys or more, or have fewer shards", o.MaxKeys, o.Shards, minShardKeys, o.Shards*minShardKeys)
	}
	if share > maxShardKeys {
		return o, fmt.Errorf("at most %d keys are too many for %d shards, which hold up to %d each: have more shards", o.MaxKeys, o.Shards, maxShardKeys)
	}
	return o, nil
}
