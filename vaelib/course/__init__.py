"""What only this course needs: claims, results, long runs and one module for each chapter.

The core, ``vaelib``, knows nothing of it. The claims on trial come from five public projects,
cited by letter:

- A: ``LorenzHW/Master-Thesis``, a convolutional VAE with and without a triplet loss
- B: ``ErezYosef/Variational-Autoencoder-FMNIST``, an SVM on the latents of Fashion-MNIST
- C: ``gozsoy/conditional-vae``, what beta does, from 0 to 200
- D: ``yulinliutw/VAE-with-Mnist``, likelihoods and the quality of reconstructions
- E: ``Ashmit110/COMPUTER-VISION``, fully connected against convolutional VAEs
"""
