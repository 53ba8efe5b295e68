# Tests of the simulator and of the stand-in driver.

# auxcore_simulator_test(NAME FILE...): a program that runs kernels, with the simulator linked in.
function(auxcore_simulator_test name)
  auxcore_simulated_sources(${ARGN})
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE auxcore_simulator)
endfunction()

auxcore_simulator_test(simulator_semantics simulator_semantics.cpp)
add_test(NAME simulator.semantics COMMAND simulator_semantics)

auxcore_simulator_test(simulator_planted simulator_planted.cpp)

# Correct twins run to their end under whatever watches. auxcore_planted(KERNEL EXPECTED) also says what the mistake has to give.
function(auxcore_planted kernel)
  foreach(order 0 1 12345)
    add_test(NAME simulator.${kernel}.right.${order} COMMAND simulator_planted ${kernel} right ${order})
    if(ARGC GREATER 1)
      add_test(NAME simulator.${kernel}.wrong.${order} COMMAND simulator_planted ${kernel} wrong ${order})
      # ThreadSanitizer would wait a second for threads that may still race.
      set_tests_properties(simulator.${kernel}.wrong.${order} PROPERTIES
        PASS_REGULAR_EXPRESSION "${ARGV1}" ENVIRONMENT TSAN_OPTIONS=atexit_sleep_ms=0)
    endif()
  endforeach()
endfunction()

foreach(kernel block_barrier second_block_barrier warp_barrier warp_exchange)
  if(AUXCORE_SANITIZE STREQUAL "thread")
    auxcore_planted(${kernel} "WARNING: ThreadSanitizer: data race")
  else()
    auxcore_planted(${kernel})
  endif()
endforeach()

foreach(kernel shared_bounds dynamic_bounds)
  if(AUXCORE_SANITIZE STREQUAL "address")
    auxcore_planted(${kernel} "ERROR: AddressSanitizer: heap-buffer-overflow")
  else()
    auxcore_planted(${kernel})
  endif()
endforeach()

auxcore_planted(copy_has_landed "a result is wrong")
auxcore_planted(aligned_copy "simulator: an asynchronous copy .* is not aligned to 16 bytes")
auxcore_planted(uniform_barrier "simulator: divergent barrier: thread 0 waits at line")
auxcore_planted(barrier_of_all "simulator: divergent barrier: 1 of 64 threads exited instead of reaching it")
auxcore_planted(mask_of_the_living "simulator: .*(which have exited|lane 7 exited)")
auxcore_planted(mask_names_the_caller "simulator: the mask .* does not name lane 0")
auxcore_planted(one_collective "simulator: lanes of a warp meet in different collectives")
auxcore_planted(everybody_comes "simulator: deadlock")

foreach(kernels ema adamw td pairs kv kv_append tokens token_scores)
  auxcore_simulator_test(simulator_${kernels} simulator_${kernels}.cpp)
  target_link_libraries(simulator_${kernels} PRIVATE auxcore_simulated_kernels)
  add_test(NAME simulator.${kernels} COMMAND simulator_${kernels})
endforeach()

foreach(test standin standin_work)
  add_executable(simulator_${test} simulator_${test}.cpp)
  target_link_libraries(simulator_${test} PRIVATE auxcore_standin)
  add_test(NAME simulator.${test} COMMAND simulator_${test})
endforeach()
