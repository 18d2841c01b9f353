// Unary Predict calls as a grpc-go program makes them: closed loop, one connection, another row in every call.
//
// unary_go HOST:PORT --request FILE [--seconds S] [--warmup-s W] [--in-flight K] prints one JSON object.
// FILE holds a PredictRequest of one packed row as on the wire; its values are the centre of what is sent.
// Every answer is checked: one probability in [0, 1].
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	pb "unary_go/volcastv1"
)

const prefixBytes = 5 // a 0 byte and the message's length

type window struct{ begin, end time.Time }

func readRequest(path string) (*pb.PredictRequest, error) {
	framed, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	request := &pb.PredictRequest{}
	if len(framed) < prefixBytes {
		return nil, fmt.Errorf("%s holds no framed message", path)
	}
	if err := proto.Unmarshal(framed[prefixBytes:], request); err != nil {
		return nil, err
	}
	if request.GetPacked().GetRowCount() != 1 {
		return nil, fmt.Errorf("%s: expected one packed row", path)
	}
	return request, nil
}

// vary writes values around those of centre into request.
func vary(request, centre *pb.PredictRequest, random *rand.Rand) {
	from, to := centre.GetPacked().Values, request.GetPacked().Values
	for at := 0; at < len(from); at += 8 {
		value := math.Float64frombits(binary.LittleEndian.Uint64(from[at:]))
		value *= 1 + 0.1*(random.Float64()-0.5)
		binary.LittleEndian.PutUint64(to[at:], math.Float64bits(value))
	}
}

func check(response *pb.PredictResponse) error {
	if len(response.Probabilities) == 1 && response.Probabilities[0] >= 0 && response.Probabilities[0] <= 1 {
		return nil
	}
	return fmt.Errorf("not the answer: %v", response)
}

// call makes one call after another; it gives the nanoseconds of each that ended in the window.
func call(client pb.InferenceServiceClient, centre *pb.PredictRequest, caller uint64, counted window) ([]int64, error) {
	random := rand.New(rand.NewPCG(1, caller))
	request := proto.Clone(centre).(*pb.PredictRequest)
	took := make([]int64, 0, 1<<16)
	for {
		vary(request, centre, random)
		sent := time.Now()
		response, err := client.Predict(context.Background(), request)
		if err == nil {
			err = check(response)
		}
		if err != nil {
			return nil, err
		}
		now := time.Now()
		if !now.Before(counted.end) {
			return took, nil
		}
		if !now.Before(counted.begin) {
			took = append(took, now.Sub(sent).Nanoseconds())
		}
	}
}

func measure(address string, centre *pb.PredictRequest, inFlight int, warmupS, seconds float64) ([]int64, error) {
	connection, err := grpc.NewClient(
		"passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	client := pb.NewInferenceServiceClient(connection)
	begin := time.Now().Add(time.Duration(warmupS * 1e9))
	counted := window{begin, begin.Add(time.Duration(seconds * 1e9))}
	parts := make([][]int64, inFlight)
	var callers errgroup.Group
	for caller := range inFlight {
		callers.Go(func() (err error) {
			parts[caller], err = call(client, centre, uint64(caller), counted)
			return err
		})
	}
	if err := callers.Wait(); err != nil {
		return nil, err
	}
	took := slices.Concat(parts...)
	if len(took) == 0 {
		return nil, errors.New("no call ended while calls were measured")
	}
	slices.Sort(took)
	return took, nil
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("expected HOST:PORT, then options")
	}
	flags := flag.NewFlagSet("unary_go", flag.ContinueOnError)
	path := flags.String("request", "", "a framed PredictRequest")
	seconds := flags.Float64("seconds", 2, "how long calls are counted")
	warmupS := flags.Float64("warmup-s", 0.3, "how long calls are made before that")
	inFlight := flags.Int("in-flight", 32, "calls at a time")
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	centre, err := readRequest(*path)
	if err != nil {
		return err
	}
	took, err := measure(arguments[0], centre, *inFlight, *warmupS, *seconds)
	if err != nil {
		return err
	}
	at := func(share float64) float64 { return float64(took[int(share*float64(len(took)-1))]) / 1e3 }
	fmt.Printf("{\"calls\": %d, \"calls_per_s\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
		len(took), float64(len(took)) / *seconds, at(0.5), at(0.99))
	return nil
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "unary_go:", err)
		os.Exit(1)
	}
}
