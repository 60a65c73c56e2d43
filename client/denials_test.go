package client

import (
	"strconv"
	"testing"
	"time"
)

// denied is what a daemon answers who is over one limit.
func denied(retry time.Duration) *Result {
	return &Result{Reason: ReasonOverLimit, RetryAfter: retry, DecidedAt: time.Now(), Statuses: []Status{
		{RetryAfter: retry, ResetAfter: retry}, {RetryAfter: 0, ResetAfter: retry, Allowed: true},
	}}
}

func TestDenialsAreBounded(t *testing.T) {
	d, l := newDenials(64), &scope{namespace: "shop"}
	for i := range 10_000 {
		id := strconv.Itoa(i)
		_, _, when := d.recall(l, id, 1)
		d.remember(l, id, 1, denied(time.Hour), when)
		if _, known, _ := d.recall(l, id, 1); !known {
			t.Fatalf("denial %d is not remembered", i)
		}
	}
	n := 0
	for i := range d.shards {
		n += len(d.shards[i].known)
	}
	if n > 64 {
		t.Errorf("%d denials are remembered, of 64", n)
	}
}

func TestDenialsAreOfOneQuestion(t *testing.T) {
	d, l, other := newDenials(64), &scope{namespace: "shop"}, &scope{namespace: "shop"}
	_, _, when := d.recall(l, "alice", 5)
	d.remember(l, "alice", 5, denied(time.Hour), when)
	for _, tt := range []struct {
		l     *scope
		id    string
		cost  uint64
		known bool
	}{{l, "alice", 5, true}, {l, "alice", 1, false}, {l, "bob", 5, false}, {other, "alice", 5, false}} {
		if _, known, _ := d.recall(tt.l, tt.id, tt.cost); known != tt.known {
			t.Errorf("%+v: known %v", tt, known)
		}
	}
}

func TestWhatIsNotRemembered(t *testing.T) {
	allowed, old, failed, soon := denied(time.Hour), denied(time.Hour), denied(time.Hour), denied(0)
	allowed.Allowed, old.DecidedAt, failed.Reason = true, time.Time{}, ReasonStoreFailure
	for name, result := range map[string]*Result{"an allowed call": allowed, "what the daemon repeats": old, "a failure of the store": failed, "a denial that is over": soon} {
		d, l := newDenials(64), &scope{namespace: "shop"}
		_, _, when := d.recall(l, "alice", 1)
		d.remember(l, "alice", 1, result, when)
		if _, known, _ := d.recall(l, "alice", 1); known {
			t.Errorf("%s is remembered", name)
		}
	}
}

// TestForgottenWhileAsked has a refund come between a question and its answer.
func TestForgottenWhileAsked(t *testing.T) {
	d, l := newDenials(64), &scope{namespace: "shop"}
	_, _, when := d.recall(l, "alice", 1)
	d.forget("shop", "alice")
	d.remember(l, "alice", 1, denied(time.Hour), when)
	if _, known, _ := d.recall(l, "alice", 1); known {
		t.Error("a denial from before a refund is remembered")
	}
}

// TestDenialAges holds what is repeated to be as of now, and no denial that a caller has to
// be changed.
func TestDenialAges(t *testing.T) {
	d, l := newDenials(64), &scope{namespace: "shop"}
	of := denied(time.Hour)
	of.Statuses = append(of.Statuses, Status{RetryAfter: Never, ResetAfter: time.Millisecond})
	_, _, when := d.recall(l, "alice", 1)
	when.asked -= 500 * time.Millisecond // as if it had been asked then
	d.remember(l, "alice", 1, of, when)
	r, known, _ := d.recall(l, "alice", 1)
	if least, most := time.Hour-501*time.Millisecond-time.Second, time.Hour-500*time.Millisecond; !known || r.RetryAfter > most || r.RetryAfter < least ||
		r.Statuses[0].RetryAfter != r.RetryAfter || r.Statuses[2].RetryAfter != Never || r.Statuses[2].ResetAfter != 0 || !r.Remembered {
		t.Errorf("%+v", r)
	}
	if of.Statuses[0].RetryAfter != time.Hour {
		t.Error("the result of the first caller has changed")
	}
}
