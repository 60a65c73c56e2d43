package storetest

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
)

// testAgree has many users say what they want a value to be, at once: all get one of
// these, and so does who comes later.
func testAgree(t *testing.T, s Subject) {
	const users = 32
	var said, got [users][]byte
	var asking sync.WaitGroup
	for i := range users {
		said[i] = []byte(fmt.Sprintf("\x00\xff\r\n value of %d", i))
		asking.Go(func() {
			var err error
			if got[i], err = s.Store.Agree(t.Context(), "test-value", said[i]); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	wanted := false
	for i := range users {
		wanted = wanted || bytes.Equal(said[i], got[0])
		if !bytes.Equal(got[i], got[0]) {
			t.Errorf("user %d got %q, and user 0 %q", i, got[i], got[0])
		}
	}
	if !wanted {
		t.Errorf("%q is what nobody said", got[0])
	}
	if later, err := s.Store.Agree(t.Context(), "test-value", []byte("later")); err != nil || !bytes.Equal(later, got[0]) {
		t.Errorf("later: %q, %v, want %q", later, err, got[0])
	}
	if other, err := s.Store.Agree(t.Context(), "other-value", []byte("other")); err != nil || string(other) != "other" {
		t.Errorf("another value: %q, %v", other, err)
	}
}
