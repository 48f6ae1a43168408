import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.NetworkInterface;
import java.net.StandardProtocolFamily;
import java.net.URI;
import java.net.UnixDomainSocketAddress;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.nio.file.StandardWatchEventKinds;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;

/** What servers in Java do all day, tried one by one: prints a line `name: result` for each. */
public class Everything {
    public static void main(String[] words) throws Exception {
        Map<String, Callable<Object>> all = new LinkedHashMap<>();
        all.put("threads", Everything::threads);
        all.put("shell", Everything::shell);
        all.put("http", Everything::http);
        all.put("udp", Everything::udp);
        all.put("unix", Everything::unix);
        all.put("names", Everything::names);
        all.put("files", Everything::files);
        all.put("watching", Everything::watching);
        all.put("garbage", Everything::garbage);
        all.put("compiler", Everything::compiler);
        for (var one : all.entrySet()) {
            try {
                System.out.println(one.getKey() + ": " + one.getValue().call());
            } catch (Throwable error) {
                System.out.println(one.getKey() + ": failed: " + error);
            }
        }
        System.exit(0);
    }

    static Object threads() throws Exception {
        var pool = Executors.newFixedThreadPool(16);
        List<Future<Integer>> futures = new ArrayList<>();
        for (int n = 0; n < 1000; n++) {
            int square = n * n;
            futures.add(pool.submit(() -> square));
        }
        int sum = 0;
        for (var future : futures) sum += future.get();
        pool.shutdown();
        return sum + IntStream.range(0, 1000).parallel().sum();
    }

    static Object shell() throws Exception {
        var child = new ProcessBuilder("sh", "-c", "printf 'a\\nb\\n' | wc -l; exit 3").start();
        var said = new String(child.getInputStream().readAllBytes()).strip();
        return said + " " + child.waitFor();
    }

    static Object http() throws Exception {
        var server = HttpServer.create(new InetSocketAddress("localhost", 0), 0);
        server.createContext("/", exchange -> {
            byte[] path = exchange.getRequestURI().getPath().getBytes();
            exchange.sendResponseHeaders(200, path.length);
            exchange.getResponseBody().write(path);
            exchange.close();
        });
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
        var place = URI.create("http://localhost:" + server.getAddress().getPort() + "/page");
        var client = HttpClient.newHttpClient();
        var answer = client.send(HttpRequest.newBuilder(place).build(), HttpResponse.BodyHandlers.ofString());
        server.stop(0);
        return answer.body();
    }

    static Object udp() throws Exception {
        var here = InetAddress.getByName("127.0.0.1");
        try (var socket = new DatagramSocket(0, here)) {
            socket.send(new DatagramPacket(new byte[1000], 1000, here, socket.getLocalPort()));
            var packet = new DatagramPacket(new byte[2000], 2000);
            socket.receive(packet);
            return packet.getLength();
        }
    }

    static Object unix() throws Exception {
        var place = Files.createTempDirectory("runtime");
        var address = UnixDomainSocketAddress.of(place.resolve("s"));
        try (var server = ServerSocketChannel.open(StandardProtocolFamily.UNIX)) {
            server.bind(address);
            var asked = CompletableFuture.supplyAsync(() -> {
                try (var client = SocketChannel.open(address)) {
                    client.write(ByteBuffer.wrap("hello".getBytes()));
                    return true;
                } catch (IOException error) {
                    return false;
                }
            });
            var buffer = ByteBuffer.allocate(100);
            try (var peer = server.accept()) {
                peer.read(buffer);
            }
            return asked.get() + " " + buffer.position();
        } finally {
            Files.deleteIfExists(place.resolve("s"));
            Files.delete(place);
        }
    }

    static Object names() throws Exception {
        var cards = Collections.list(NetworkInterface.getNetworkInterfaces());
        return InetAddress.getAllByName("localhost").length > 0 ? cards.toString() : "none";
    }

    static Object files() throws Exception {
        var file = Files.createTempFile("runtime", "");
        try (var channel = FileChannel.open(file, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            var mapped = channel.map(FileChannel.MapMode.READ_WRITE, 0, 1 << 20);
            mapped.putLong(1000, 42);
            mapped.force();
            return Files.size(file) + " " + channel.map(FileChannel.MapMode.READ_ONLY, 0, 1 << 20).getLong(1000);
        } finally {
            Files.delete(file);
        }
    }

    static Object watching() throws Exception {
        var place = Files.createTempDirectory("runtime");
        try (var watch = place.getFileSystem().newWatchService()) {
            place.register(watch, StandardWatchEventKinds.ENTRY_CREATE);
            Files.createFile(place.resolve("f"));
            var key = watch.poll(20, TimeUnit.SECONDS);
            return key == null ? "nothing" : key.pollEvents().get(0).context();
        } finally {
            Files.deleteIfExists(place.resolve("f"));
            Files.delete(place);
        }
    }

    static Object garbage() {
        long sum = 0;
        for (int n = 0; n < 2000; n++) sum += new byte[100_000].length;
        System.gc();
        return sum;
    }

    static Object compiler() {
        // Long enough for the compiled code to take over.
        long sum = 0;
        for (int n = 0; n < 5_000_000; n++) sum = Long.rotateLeft(sum, 3) ^ n;
        return sum;
    }
}
