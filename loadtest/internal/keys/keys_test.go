package keys

import "testing"

func TestPicker(t *testing.T) {
	const keys, picks = 100, 100_000
	for distribution, want := range map[string]struct{ first, least, most int }{
		Uniform: {first: picks / keys, least: 1, most: keys},
		Zipf:    {first: picks / 4, least: 1, most: keys},
		Hot:     {first: picks, least: 1, most: 1},
		Flood:   {first: 1, least: picks, most: picks},
	} {
		s := New(distribution, keys)
		seen := make(map[int]int)
		a, b := s.Picker(1), s.Picker(2)
		for range picks / 2 {
			seen[a()]++
			seen[b()]++
		}
		if n := seen[0]; n < want.first*8/10 || n > want.first*12/10 {
			t.Errorf("%s: the first key %d times, want about %d", distribution, n, want.first)
		}
		if len(seen) < want.least || len(seen) > want.most {
			t.Errorf("%s: %d keys, want %d to %d", distribution, len(seen), want.least, want.most)
		}
	}
	for a, b := New(Zipf, keys).Picker(5), New(Zipf, keys).Picker(5); ; {
		x, y := a(), b()
		if x != y {
			t.Error("alike seeds pick other keys")
		}
		if x > 0 {
			return // it was compared with more than the first key
		}
	}
}
