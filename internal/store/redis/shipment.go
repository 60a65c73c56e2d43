package redis

import (
	"context"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
)

// A shipment has the questions of one caller for one lane, in order. It belongs to
// the sender until done is closed. A caller that stops waiting before that must not
// touch it any more. A shipment with many questions is sent in several turns, one
// after the other.
type shipment struct {
	ctx       context.Context // the caller's
	deadline  time.Time       // the caller's deadline, or that of the store if it is sooner
	questions []question
	replies   []reply // replies[i] answers questions[i]
	sent      int     // how many of questions have had their turn
	turnEnd   int     // the current turn is questions[sent:turnEnd]
	done      chan struct{}
	cut       error // why the caller has left, if it sent s itself

	oneQuestion [1]question // room for questions: most shipments have one
	oneReply    [1]reply    // room for its reply
}

func newShipment(ctx context.Context, deadline time.Time) *shipment {
	s := &shipment{ctx: ctx, deadline: deadline, done: make(chan struct{})}
	s.questions, s.replies = s.oneQuestion[:0], s.oneReply[:0]
	return s
}

// add adds q and returns its index.
func (s *shipment) add(q question) int {
	s.questions, s.replies = append(s.questions, q), append(s.replies, reply{})
	return len(s.questions) - 1
}

// turn returns the questions of the current turn, and room for their replies.
func (s *shipment) turn() ([]question, []reply) {
	return s.questions[s.sent:s.turnEnd], s.replies[s.sent:s.turnEnd]
}

// left returns why the caller of s does not wait any more, or nil if it waits.
func (s *shipment) left(now time.Time) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if !now.Before(s.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// wait waits until s is done. An error says why it stopped waiting before that.
func (s *shipment) wait() error {
	if err := store.Await(s.ctx, s.deadline, s.done); err != nil {
		return err
	}
	return s.cut
}

// fail finishes s: the questions that were not sent get err.
func (s *shipment) fail(err error) {
	for i := s.sent; i < len(s.questions); i++ {
		s.replies[i].err = err
	}
	s.sent, s.turnEnd = len(s.questions), len(s.questions)
	s.finish()
}

func (s *shipment) finish() { close(s.done) }
