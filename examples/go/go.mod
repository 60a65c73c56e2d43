module github.com/ratelimitd/ratelimitd/examples/go

go 1.25.0

require github.com/ratelimitd/ratelimitd/client v0.1.0

require (
	github.com/planetscale/vtprotobuf v0.6.1-0.20240319094008-0393e58bdf10 // indirect
	github.com/ratelimitd/ratelimitd/proto v0.1.0 // indirect
	golang.org/x/net v0.58.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/text v0.41.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260526163538-3dc84a4a5aaa // indirect
	google.golang.org/grpc v1.83.2 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace (
	github.com/ratelimitd/ratelimitd/client => ../../client
	github.com/ratelimitd/ratelimitd/proto => ../../proto
)
