package account

import (
	"fmt"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A recording is a Book, its History, and their clock.
type recording struct {
	*Book
	*History
	now time.Time
}

func newRecording() *recording {
	r := &recording{now: time.Unix(1_767_225_600, 0)}
	r.Book = New([]string{"allowed", "denied"}, func() time.Time { return r.now })
	r.History = NewHistory(r.Book, Outcomes{Denial: func(outcome int) bool { return outcome == 1 }, Failure: func(int) bool { return false }}, r.now)
	return r
}

// ask counts n requests to a policy, of which the limit burst denies some.
func (r *recording) ask(namespace string, n, denied int) {
	limits := []strategy.Limit{{Name: "burst", Strategy: strategy.FixedWindow}}
	var tally Tally
	for i := range n {
		e := &Entry{Namespace: namespace, Policy: "default", Identifier: "alice", Limits: limits, Statuses: []strategy.Status{{Allowed: i >= denied}}}
		if i < denied {
			e.Outcome, e.Denied = 1, true
		}
		tally.Add(r.Book, e)
	}
	tally.Flush(r.Book)
}

// step lets a step go by.
func (r *recording) step() {
	r.now = r.now.Add(StepTime)
	r.Step(r.now)
}

// series returns the one of a name; its Kind is "" if there is none.
func (r *recording) series(name SeriesName) Series {
	for _, s := range r.Series(r.now) {
		if s.SeriesName == name {
			return s
		}
	}
	return Series{}
}

func TestHistory(t *testing.T) {
	r := newRecording()
	limit := SeriesName{Kind: OfLimit, Namespace: "checkout", Policy: "default", Limit: "burst"}
	if all := r.Series(r.now); len(all) != 1 || all[0].Kind != OfAll {
		t.Errorf("before anything: %+v", all)
	}
	r.ask("checkout", 50, 0)
	r.step()
	began := r.now
	r.ask("checkout", 100, 20) // 20 and 4 a second
	r.ask("search", 5, 0)
	r.step()
	r.now = r.now.Add(StepTime)
	r.ask("checkout", 30, 10) // in the step that goes on
	s := r.series(limit)
	if s.Asked != 13 || s.Denied != 3 || s.DeniedSince == nil || !s.DeniedSince.Equal(began) || !s.DeniedLast.Equal(r.now) {
		t.Errorf("the limit: %+v, since %v; want 13 and 3 a second since %v", s, s.DeniedSince, began)
	}
	if got, want := fmt.Sprint(s.AskedSteps, s.DeniedSteps), "[10 20] [0 4]"; got != want {
		t.Errorf("its steps: %s, want %s", got, want)
	}
	if all := r.Series(r.now); all[0].Kind != OfAll || all[0].Asked != 13.5 || all[1].Denied != 3 {
		t.Errorf("the first: %+v", all[:2])
	}
	r.Step(r.now)
	// Denials that go on after a while are the same ones; after a minute they are new.
	for range 6 {
		r.step()
	}
	r.ask("checkout", 1, 1)
	if s := r.series(limit); s.DeniedSince == nil || !s.DeniedSince.Equal(began) || !s.Denying {
		t.Errorf("after half a minute: since %v, want %v", s.DeniedSince, began)
	}
	for range 14 {
		r.step()
	}
	if s := r.series(limit); s.Denying || s.DeniedSince == nil || s.Asked != 0 {
		t.Errorf("after another minute: %+v", s)
	}
	again := r.now
	r.ask("checkout", 1, 1)
	r.step()
	if s := r.series(limit); s.DeniedSince == nil || !s.DeniedSince.Equal(again) {
		t.Errorf("denials of later: since %v, want %v", s.DeniedSince, again)
	}
	for range Steps + 1 {
		r.step()
	}
	if s := r.series(limit); s.Kind != "" {
		t.Errorf("after 15 minutes there is still %+v", s)
	}
	r.ask("search", 5, 0)
	r.step()
	if s := r.series(SeriesName{Kind: OfAll}); len(s.AskedSteps) != Steps || s.AskedSteps[Steps-1] != 1 {
		t.Errorf("%d steps are remembered, want %d", len(s.AskedSteps), Steps)
	}
}

// TestHistoryIsBounded has more limits ask than there is room for.
func TestHistoryIsBounded(t *testing.T) {
	r := newRecording()
	for i := range maxTracks {
		r.Hit(fmt.Sprint(i), Hits{N: 1, Over: 1, Shadow: false})
	}
	r.ask("checkout", 1, 0)
	r.step()
	kept := 0
	for _, s := range r.Series(r.now) {
		if s.AskedSteps != nil {
			kept++
		}
	}
	if kept != maxTracks || r.kept != kept {
		t.Errorf("%d series have steps, and %d are counted; want %d", kept, r.kept, maxTracks)
	}
	for range Steps + 1 {
		r.step()
	}
	if r.kept != 1 { // that of all
		t.Errorf("%d have steps after 15 minutes without anything, want 1", r.kept)
	}
}

// TestWhoIsDeniedByWhat asks for the limit that denies, and since when.
func TestWhoIsDeniedByWhat(t *testing.T) {
	book, forward := newBook()
	began := book.now()
	limits := []strategy.Limit{
		{Name: "burst", Strategy: strategy.FixedWindow}, {Name: "daily", Strategy: strategy.FixedWindow}, {Name: "trial", Strategy: strategy.FixedWindow, Shadow: true},
	}
	deny := func(statuses ...strategy.Status) Key {
		t.Helper()
		var tally Tally
		tally.Add(book, &Entry{Namespace: "checkout", Identifier: "alice", Policy: "default", Denied: true, Limits: limits, Statuses: statuses})
		tally.Flush(book)
		top := book.HotKeys(1)
		if len(top) != 1 || len(top[0].Denied) != 1 {
			t.Fatalf("%+v", top)
		}
		return top[0].Denied[0]
	}
	denies := func(d time.Duration) strategy.Status { return strategy.Status{RetryAfter: d} }
	allows := strategy.Status{Allowed: true}
	for _, tt := range []struct {
		statuses []strategy.Status
		after    time.Duration
		limit    string
		since    time.Duration
	}{
		{[]strategy.Status{denies(time.Second), allows, denies(time.Hour)}, 0, "burst", 0},
		{[]strategy.Status{denies(time.Second), denies(time.Hour), allows}, 50 * time.Second, "daily", 0},
		{[]strategy.Status{denies(strategy.Never), denies(time.Hour), allows}, 50 * time.Second, "burst", 0},
		{nil, 50 * time.Second, "", 0}, // the failure policy did
		{[]strategy.Status{denies(time.Second), allows, allows}, 61 * time.Second, "burst", 211 * time.Second},
	} {
		forward(tt.after)
		if k := deny(tt.statuses...); k.Limit != tt.limit || k.Policy != "default" || !k.Since.Equal(began.Add(tt.since)) {
			t.Errorf("%v: %+v since %v, want %q since %v", tt.statuses, k, k.Since.Sub(began), tt.limit, tt.since)
		}
	}
}
